// Package compare is the hook lab behind pyhook compare: it runs hooks on a model's buckets and says
// what each one sends, computes, keeps and gets wrong, and how long a step would reduce on a network
// that is not here.
//
// A Source gives the gradients: of a model's shapes (model.go, distribution.go), of a small network
// in training (digits.go). Measure runs one hook on them, on one rank. Report puts the ranks' results
// together, and Prediction (predict.go) takes them to other networks and numbers of ranks.
package compare
