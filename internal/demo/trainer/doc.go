// Package trainer is the demo: one rank's part of training a small network in
// plain Go on handwritten digits, with the gradients reduced by any
// communication hook.
//
// It is the program that `pyhook train` runs on every rank, and an example of
// package ddp in use.
package trainer
