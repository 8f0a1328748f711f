// Package reduce combines tensors element by element, for the collectives of groups
// that have no arithmetic of their own.
//
// It combines the parts in the order in which callers give them, sorted by rank:
// so results do not depend on which rank comes first, and are the same on every
// rank. It sums half-precision floats in float32 and rounds once.
package reduce
