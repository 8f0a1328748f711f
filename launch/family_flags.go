package launch

// SourceFlags is Options.Flags.
const SourceFlags Source = "flags"

var flagsFamily = family{
	source: SourceFlags, origin: "the flags", claims: claimsFlags, read: readFlags, master: masterOfFlags,
}

func claimsFlags(e environment) bool {
	return e.any(flagRank, flagWorldSize, flagLocalRank, flagLocalWorldSize)
}

func readFlags(r *reader) World {
	r.names = fieldNames{rank: flagRank, worldSize: flagWorldSize,
		localRank: flagLocalRank, localWorldSize: flagLocalWorldSize}
	w := r.explicitRanks("give both --rank and --world-size, or neither")
	w.deriveNodes()
	return w
}

func masterOfFlags(r *reader, w *World) {
	masterElsewhere(r, w, flagMasterAddr, "give --master-addr or MASTER_ADDR: the machine of rank 0, the same on every rank")
}
