package kubernetes_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

const (
	trainerModule  = "github.com/kubeflow/trainer/v2"
	operatorModule = "github.com/kubeflow/training-operator"
)

// manifest reads a file of deploy/kubernetes.
func manifest(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "kubernetes", name))
	require.NoError(t, err)
	return text
}

// published reads a schema from the module that publishes it.
func published(t *testing.T, module, file string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(folder)), "manifests", "base", "crds", file))
	require.NoError(t, err)
	crd := &apiextensionsv1.CustomResourceDefinition{}
	require.NoError(t, yaml.UnmarshalStrict(text, crd))
	return crd
}

// refusals are what an API server that has the definition says of a manifest
// with strict field validation: its unknown fields, what breaks the schema, and
// what breaks the schema's rules in CEL.
func refusals(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition, text []byte) []string {
	t.Helper()
	var object map[string]any
	require.NoError(t, yaml.Unmarshal(text, &object))
	version, properties := versionOf(t, crd, object)
	require.Equal(t, crd.Spec.Group+"/"+version, object["apiVersion"])
	require.Equal(t, crd.Spec.Names.Kind, object["kind"])

	structural, err := schema.NewStructural(properties)
	require.NoError(t, err)
	var found []string
	for _, path := range pruning.PruneWithOptions(object, structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		found = append(found, "unknown field "+path)
	}
	defaulting.Default(object, structural)
	validator, _, err := validation.NewSchemaValidator(properties)
	require.NoError(t, err)
	errs := validation.ValidateCustomResource(nil, object, validator)
	if rules := cel.NewValidator(structural, true, celconfig.PerCallLimit); rules != nil {
		broken, _ := rules.Validate(context.Background(), nil, structural, object, nil, math.MaxInt64)
		errs = append(errs, broken...)
	}
	for _, e := range errs {
		found = append(found, e.Error())
	}
	return found
}

// versionOf finds the schema of the manifest's version.
func versionOf(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition, object map[string]any) (string, *apiextensions.JSONSchemaProps) {
	t.Helper()
	for _, v := range crd.Spec.Versions {
		if object["apiVersion"] == fmt.Sprintf("%s/%s", crd.Spec.Group, v.Name) {
			properties := &apiextensions.JSONSchemaProps{}
			require.NoError(t, apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, properties, nil))
			return v.Name, properties
		}
	}
	require.Fail(t, "no such version", "%v of %s", object["apiVersion"], crd.Name)
	return "", nil
}

var definitions = map[string][2]string{
	"trainer-runtime.yaml": {trainerModule, "trainer.kubeflow.org_clustertrainingruntimes.yaml"},
	"trainjob.yaml":        {trainerModule, "trainer.kubeflow.org_trainjobs.yaml"},
	"pytorchjob.yaml":      {operatorModule, "kubeflow.org_pytorchjobs.yaml"},
}

func TestEveryManifestFitsItsPublishedSchema(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "deploy", "kubernetes", "*.yaml"))
	require.NoError(t, err)
	require.Len(t, files, len(definitions), "each manifest has its schema here")
	for name, d := range definitions {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, refusals(t, published(t, d[0], d[1]), manifest(t, name)))
		})
	}
}

// TestABrokenManifestIsRefused breaks each manifest in one place.
func TestABrokenManifestIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ file, from, to, says string }{
		"a field that is not there":  {"trainjob.yaml", "numNodes: 2", "nodes: 2", "unknown field spec.trainer.nodes"},
		"a string for a number":      {"trainjob.yaml", "numNodes: 2", `numNodes: two`, "spec.trainer.numNodes: Invalid value"},
		"no container":               {"pytorchjob.yaml", "containers:", "initContainers:", "spec.containers: Required value"},
		"no replicas specification":  {"pytorchjob.yaml", "pytorchReplicaSpecs:", "replicaSpecs:", "spec.pytorchReplicaSpecs: Required value"},
		"a container without a name": {"trainer-runtime.yaml", "- name: node\n                      image", "- image", "name: Required value"},
		"a rule in CEL":              {"trainer-runtime.yaml", "torch: {}", "torch: {}\n    mpi: {}", "Only one of the policy can be configured"},
	} {
		t.Run(name, func(t *testing.T) {
			text := string(manifest(t, test.file))
			require.Contains(t, text, test.from)
			d := definitions[test.file]
			said := refusals(t, published(t, d[0], d[1]), []byte(strings.Replace(text, test.from, test.to, 1)))
			require.Contains(t, strings.Join(said, "\n"), test.says)
		})
	}
}
