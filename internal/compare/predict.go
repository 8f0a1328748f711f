package compare

// Calibration are the two constants of this machine, torch and backend in the model of the time of a
// bucket's collectives:
//
//	messages x (MessageSeconds + latency) + max(link, software) + min(link, software) / 2
//	link     = bytes x the link's seconds for a byte
//	software = bytes x ByteSeconds + excess
//
// where messages follow one another, and bytes go through the busiest rank's link (collective.go).
// Link and software work on two halves of what a rank sends, as gloo's ring has two segments, so half
// of the shorter one is hidden. The excess is what the bucket's collectives took here beyond the model: float16 is slow to add, for
// one. It grows with the ranks as an all-reduce's sums do.
type Calibration struct {
	MessageSeconds float64 `json:"message_seconds"` // of software, for one message of a collective
	ByteSeconds    float64 `json:"byte_seconds"`    // of software, for one byte sent, received and added
}

// calibrate solves the model for the two constants, of all-reduces of few and of many bytes over
// loopback.
func calibrate(ranks int, few, many int64, fewSeconds, manySeconds float64) Calibration {
	small, _ := Collective{"all_reduce", few}.cost(ranks)
	large, _ := Collective{"all_reduce", many}.cost(ranks)
	perMessage := fewSeconds / small.messages
	return Calibration{perMessage, max(0, manySeconds-large.messages*perMessage) / large.critical}
}

// least is the better of two calibrations in each constant: what disturbs one makes it longer.
func (c Calibration) least(o Calibration) Calibration {
	return Calibration{min(c.MessageSeconds, o.MessageSeconds), min(c.ByteSeconds, o.ByteSeconds)}
}

// seconds is how long a bucket's collectives take on n ranks of a network. They were measured on here
// ranks.
func (c Calibration) seconds(b BucketCost, net Network, n, here int) float64 {
	there, _ := b.cost(n)
	local, _ := b.cost(here)
	excess := max(0, b.CollectiveSeconds-local.messages*c.MessageSeconds-local.critical*c.ByteSeconds)
	excess *= (1 - 1/float64(n)) / (1 - 1/float64(here))
	link, software := there.critical*net.secondsPerByte(), there.critical*c.ByteSeconds+excess
	return there.messages*(c.MessageSeconds+net.Latency) + max(link, software) + min(link, software)/2
}

// Prediction is a step's reduction on a network that is not here.
type Prediction struct {
	Network string  `json:"network"`
	Ranks   int     `json:"ranks"`
	Bytes   float64 `json:"bytes"` // that a rank sends in a step
	// Seconds is the time to reduce all buckets, one after another: the hook's own work as measured
	// here, and the collectives'.
	Seconds           float64 `json:"seconds"`
	CollectiveSeconds float64 `json:"collective_seconds"`
	// StepSeconds is the whole step, whose backward pass the reduction overlaps: see Overlap. 0 where
	// no time of the passes was given.
	StepSeconds float64 `json:"step_seconds,omitempty"`
}

// BucketCost is what a bucket takes in each step.
type BucketCost struct {
	Elements          int64        `json:"elements"`
	HookSeconds       float64      `json:"hook_seconds"`       // in which no collective was under way
	CollectiveSeconds float64      `json:"collective_seconds"` // in which one was
	Collectives       []Collective `json:"collectives"`
}

// cost is the sum over the bucket's collectives; unknown are the kinds that have none.
func (b *BucketCost) cost(n int) (sum cost, unknown []string) {
	for _, one := range b.Collectives {
		c, known := one.cost(n)
		if !known {
			unknown = append(unknown, one.Kind)
		}
		sum.messages += c.messages
		sum.critical += c.critical
		sum.sent += c.sent
	}
	return sum, unknown
}

// Predict takes the buckets of a step, measured on here ranks, to a network of more. passes is the time
// of the forward and backward passes, 0 if it is not known.
func Predict(buckets []BucketCost, c Calibration, here int, net Network, ranks int, passes float64) Prediction {
	p := Prediction{Network: net.Name, Ranks: ranks}
	each := make([]float64, len(buckets))
	for i, b := range buckets {
		sum, _ := b.cost(ranks)
		seconds := c.seconds(b, net, ranks, here)
		each[i] = b.HookSeconds + seconds
		p.Bytes += sum.sent
		p.CollectiveSeconds += seconds
		p.Seconds += each[i]
	}
	if passes > 0 {
		p.StepSeconds = overlap(buckets, each, passes)
	}
	return p
}

// overlap is the length of a step in which bucket after bucket is reduced while the backward pass,
// two thirds of the passes, makes the next ones: their gradients become ready in proportion to their
// elements.
func overlap(buckets []BucketCost, each []float64, passes float64) float64 {
	total := int64(0)
	for _, b := range buckets {
		total += b.Elements
	}
	forward, made, end := passes/3, int64(0), 0.0
	for i, b := range buckets {
		made += b.Elements
		ready := forward + (passes-forward)*float64(made)/float64(total)
		end = max(end, ready) + each[i]
	}
	return end
}
