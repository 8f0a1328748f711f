// Package reduce combines tensors element by element, as the collectives of a
// group do that has no arithmetic of its own.
//
// The order is that of the parts, which callers sort by rank: results do not
// depend on who arrives first, and are the same on every rank. Half-precision
// floats are summed in float32 and rounded once.
package reduce
