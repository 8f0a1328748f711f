package kubernetes_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/go-logr/logr"
	trainer "github.com/kubeflow/trainer/v2/pkg/apis/trainer/v1alpha1"
	"github.com/kubeflow/trainer/v2/pkg/runtime/core"
	trainertesting "github.com/kubeflow/trainer/v2/pkg/util/testing"
	operator "github.com/kubeflow/training-operator/pkg/apis/kubeflow.org/v1"
	"github.com/kubeflow/training-operator/pkg/controller.v1/pytorch"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/jobset/api/jobset/v1alpha2"
	"sigs.k8s.io/yaml"

	"pyhook/launch"
)

// world is what pyhook takes itself for in a container with these variables,
// in the pod of this index.
func world(t *testing.T, env []corev1.EnvVar, index int) (launch.World, error) {
	t.Helper()
	values := map[string]string{}
	for _, v := range env {
		values[v.Name] = v.Value
		if v.ValueFrom != nil { // the kubelet's part
			require.Equal(t, "metadata.annotations['batch.kubernetes.io/job-completion-index']", v.ValueFrom.FieldRef.FieldPath, v.Name)
			values[v.Name] = strconv.Itoa(index)
		}
	}
	return launch.Detect(launch.Options{Getenv: func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	}})
}

// trainerContainer is the container that Kubeflow Trainer makes of the job, in
// the JobSet that its own code builds.
func trainerContainer(t *testing.T, change func(*trainer.TrainJob)) (*v1alpha2.JobSet, corev1.Container) {
	t.Helper()
	runtime, job := &trainer.ClusterTrainingRuntime{}, &trainer.TrainJob{}
	require.NoError(t, yaml.UnmarshalStrict(manifest(t, "trainer-runtime.yaml"), runtime))
	require.NoError(t, yaml.UnmarshalStrict(manifest(t, "trainjob.yaml"), job))
	job.Namespace = "default"
	kind, group := trainer.ClusterTrainingRuntimeKind, trainer.GroupVersion.Group // the schema's defaults
	job.Spec.RuntimeRef.Kind, job.Spec.RuntimeRef.APIGroup = &kind, &group
	change(job)

	builder := trainertesting.NewClientBuilder().WithObjects(runtime)
	index := trainertesting.AsIndex(builder)
	runtimes, err := core.New(context.Background(), builder.Build(), index, nil)
	require.NoError(t, err)
	objects, err := runtimes[core.ClusterTrainingRuntimeGroupKind].NewObjects(context.Background(), job)
	require.NoError(t, err)
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		require.NoError(t, err)
		set := &v1alpha2.JobSet{}
		require.NoError(t, yaml.Unmarshal(text, set))
		if set.Kind == "JobSet" {
			require.Len(t, set.Spec.ReplicatedJobs, 1)
			require.Len(t, set.Spec.ReplicatedJobs[0].Template.Spec.Template.Spec.Containers, 1)
			return set, set.Spec.ReplicatedJobs[0].Template.Spec.Template.Spec.Containers[0]
		}
	}
	require.Fail(t, "no JobSet")
	return nil, corev1.Container{}
}

func TestTheTrainJobsPodsKnowTheirRanks(t *testing.T) {
	set, container := trainerContainer(t, func(*trainer.TrainJob) {})
	job := set.Spec.ReplicatedJobs[0].Template.Spec
	assert.EqualValues(t, 2, *job.Parallelism)
	assert.EqualValues(t, 2, *job.Completions)
	assert.Empty(t, container.Command, "the image's entry point is pyhook")
	assert.Equal(t, []string{"train", "--hook", "fp16", "--epochs", "20", "--checkpoint", "/data/checkpoint"}, container.Args)
	for rank := range 2 {
		w, err := world(t, container.Env, rank)
		require.NoError(t, err)
		assert.Equal(t, launch.World{Rank: rank, Size: 2, LocalSize: 1, NodeRank: rank, Nodes: 2, Source: launch.SourcePET,
			MasterAddr: "pyhook-digits-node-0-0.pyhook-digits", MasterPort: 29500}, w)
	}
}

// TestMoreProcessesInAPodNeedTorchrun: without numProcPerNode the operator
// takes the number of CPUs, which is 2 here.
func TestMoreProcessesInAPodNeedTorchrun(t *testing.T) {
	_, container := trainerContainer(t, func(job *trainer.TrainJob) { job.Spec.Trainer.NumProcPerNode = nil })
	_, err := world(t, container.Env, 0)
	require.ErrorContains(t, err, `PET_NPROC_PER_NODE="2" means several processes on this node`)
	require.ErrorContains(t, err, "torchrun --no_python")
}

func TestThePyTorchJobsPodsKnowTheirRanks(t *testing.T) {
	job := &operator.PyTorchJob{}
	require.NoError(t, yaml.UnmarshalStrict(manifest(t, "pytorchjob.yaml"), job))
	job.Namespace = "default"
	operator.SetObjectDefaults_PyTorchJob(job)
	controller := &pytorch.PyTorchJobReconciler{Log: logr.Discard()}
	for rank, replica := range []operator.ReplicaType{operator.PyTorchJobReplicaTypeMaster, operator.PyTorchJobReplicaTypeWorker} {
		spec := job.Spec.PyTorchReplicaSpecs[replica]
		require.EqualValues(t, 1, *spec.Replicas)
		pod := spec.Template.DeepCopy()
		require.NoError(t, controller.SetClusterSpec(job, pod, []string{"master", "worker"}[rank], "0"))
		w, err := world(t, pod.Spec.Containers[0].Env, rank)
		require.NoError(t, err)
		assert.Equal(t, launch.World{Rank: rank, Size: 2, LocalSize: 1, NodeRank: rank, Nodes: 2, Source: launch.SourceEnv,
			MasterAddr: "pyhook-digits-master-0", MasterPort: 23456}, w)
	}
}
