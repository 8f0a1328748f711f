// Package digits is the demo trainer's data: 1,797 handwritten digits of 8x8
// pixels, embedded, with the deterministic splits and batches that N ranks need
// to see disjoint parts of the same shuffled epoch without talking to each other.
//
// The data's source and licence (CC BY 4.0) are in ATTRIBUTION.md.
//
// What lives here: parsing, splitting and batching of one CSV form. What must
// not: networks, gradients, ranks' communication.
//
// # Seeding
//
// Every random choice is a Fisher-Yates shuffle (math/rand/v2's Rand.Shuffle) fed
// by rand.NewPCG(seed, stream), with these streams:
//
//	Split                0x73706c6974 ("split" in ASCII)
//	Batches of epoch e   0x6261746368000000 ("batch" in ASCII, shifted left 24 bits) + e
//
// Both generators are fixed by Go's compatibility promise and use integers only,
// so a seed gives the same split and the same batches on every machine. Pixels
// are 0 to 16 divided by 16, which float32 holds exactly.
//
// Nothing here starts goroutines. A Dataset may be read from several goroutines
// at once as long as none writes its slices.
package digits
