// Package kubernetes_test holds the manifests of deploy/kubernetes to what the
// two operators publish: the schemas of their custom resources, checked by the
// API server's own code, and the operators' code that makes pods of a job.
//
// It is a module of its own, so that Kubernetes is in no go.sum of a user. The
// operators are modules in its go.mod: their schemas come at the version, and
// with the checksum, that is there.
package kubernetes_test
