// Package commit lets the ranks of a process group agree on whether a step counts: a two-phase
// commit. Rank 0 is the coordinator, to which each other rank keeps one TCP connection, apart from
// the group's own and never used by a hook. So a rank whose collectives hang still hears why.
//
// Each rank votes once a step. The step counts if every rank votes yes. A no while collectives of
// the rank may still be under way (Failure.Over is false) decides at once; a no after them waits for
// all votes, since every rank then comes to vote, and so all of them leave the step alike. The end
// of a rank's connection is a no of the first kind, to this step and all later ones.
//
// The ranks also meet here, with a few bytes each, when the group itself is of no use.
//
// docs/decisions/0020 says why it is so, and what it costs.
package commit
