package compare

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Report is the whole comparison; `pyhook help json` describes it.
type Report struct {
	OK         bool         `json:"ok"`
	Model      string       `json:"model"`
	Gradients  string       `json:"gradients"`
	Parameters int          `json:"parameters"`
	Elements   int64        `json:"elements"`
	Buckets    int          `json:"buckets"`
	Ranks      int          `json:"ranks"`
	Steps      int          `json:"steps"`
	Seed       uint64       `json:"seed"`
	Torch      string       `json:"torch"`
	Python     string       `json:"python"`
	Backend    string       `json:"backend"`
	Stride     int64        `json:"accumulated_stride"`
	Constants  *Calibration `json:"calibration"` // null where no hook ran
	Networks   []Network    `json:"networks"`
	Passes     float64      `json:"passes_seconds"`
	Hooks      []HookReport `json:"hooks"`
	NoBytes    string       `json:"no_bytes,omitempty"`
}

// HookReport is what one hook gave.
type HookReport struct {
	Hook      string   `json:"hook"`
	Name      string   `json:"hook_name"`
	State     string   `json:"state"`
	StateArgs []string `json:"state_args"`
	Failure   *Failure `json:"failure"`

	// Of a step, the median of the second half of the steps: bytes that a rank sent, and the time of
	// the slowest rank.
	Bytes             float64 `json:"bytes"`
	Seconds           float64 `json:"seconds"`
	HookSeconds       float64 `json:"hook_seconds"`
	CollectiveSeconds float64 `json:"collective_seconds"`

	BytesByStep []float64 `json:"bytes_by_step"`
	// CollectiveByStep and SecondsByStep are the slowest rank's.
	SecondsByStep    []float64    `json:"seconds_by_step"`
	CollectiveByStep []float64    `json:"collective_seconds_by_step"`
	Deviations       []Deviation  `json:"deviations"` // by step
	StateBytes       int64        `json:"state_bytes"`
	Collectives      []Tally      `json:"collectives"` // of the last step, all buckets
	Predicted        []Prediction `json:"predicted"`
	Training         *Training    `json:"training"` // null: was not asked for
	Warnings         []string     `json:"warnings"`
}

// Tally is how often a rank issued a kind of collective in a step, and the bytes that it brought.
type Tally struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
	Bytes int64  `json:"bytes"`
}

// Training is the demo trained with the hook.
type Training struct {
	Accuracy         float64   `json:"accuracy"` // on the test digits
	WeightsIdentical bool      `json:"weights_identical"`
	Loss             []float64 `json:"loss"` // the mean over the ranks, by step
}

// Failure is why a hook has no figures.
type Failure struct {
	Code      string `json:"code"`
	Rank      int    `json:"rank"`
	Message   string `json:"message"`
	Traceback string `json:"traceback,omitempty"`
	Hint      string `json:"hint,omitempty"`
}

// Last is the deviation of the last step.
func (h *HookReport) Last() Deviation {
	if len(h.Deviations) == 0 {
		return Deviation{}
	}
	return h.Deviations[len(h.Deviations)-1]
}

// MeanError is the mean over the steps of the second half, in which hooks such as PowerSGD compress.
func (h *HookReport) MeanError() (mean, cosine float64) {
	half := h.Deviations[len(h.Deviations)/2:]
	for _, d := range half {
		mean += d.Error / float64(len(half))
		cosine += d.Cosine / float64(len(half))
	}
	return mean, cosine
}

// Add puts a hook's results on all ranks, in their order, into its report, and what does not depend
// on the hook into r's head.
func (r *Report) Add(h *HookReport, ranks []*RankResult) {
	first := ranks[0]
	h.Name, h.Deviations, h.StateBytes = first.Name, first.Deviations, first.StateBytes
	r.Gradients, r.Torch, r.Python, r.Backend, r.Stride = first.Gradients, first.Torch, first.Python, first.Backend, first.Stride
	r.NoBytes = first.NoBytes
	for _, rank := range ranks {
		if r.Constants == nil {
			r.Constants = &rank.Calibration
		}
		*r.Constants = r.Constants.least(rank.Calibration)
	}
	for step := range first.Steps {
		sent, slowest := 0.0, first.Steps[step]
		for _, rank := range ranks {
			sent += float64(rank.Steps[step].Sent) / float64(len(ranks))
			if rank.Steps[step].Seconds > slowest.Seconds {
				slowest = rank.Steps[step]
			}
		}
		h.BytesByStep = append(h.BytesByStep, sent)
		h.SecondsByStep, h.CollectiveByStep = append(h.SecondsByStep, slowest.Seconds), append(h.CollectiveByStep, slowest.CollectiveSeconds)
	}
	h.Bytes, h.Seconds, h.CollectiveSeconds = steady(h.BytesByStep), steady(h.SecondsByStep), steady(h.CollectiveByStep)
	h.HookSeconds = max(0, h.Seconds-h.CollectiveSeconds)
	h.tally(first)
	h.warn(r, first)
}

// tally sums up the collectives of a step.
func (h *HookReport) tally(rank *RankResult) {
	h.Collectives = []Tally{}
	for _, b := range rank.Buckets {
		for _, c := range b.Collectives {
			at := slices.IndexFunc(h.Collectives, func(t Tally) bool { return t.Kind == c.Kind })
			if at < 0 {
				at = len(h.Collectives)
				h.Collectives = append(h.Collectives, Tally{Kind: c.Kind})
			}
			h.Collectives[at].Count++
			h.Collectives[at].Bytes += c.Bytes
		}
	}
}

// gloo's headers, of each message of a collective, at most.
const headers = 256

// warn says what the predictions cannot know.
func (h *HookReport) warn(r *Report, rank *RankResult) {
	expected, slack := 0.0, 0.0
	for _, b := range rank.Buckets {
		cost, unknown := b.cost(r.Ranks)
		for _, kind := range unknown {
			h.addWarning(fmt.Sprintf("collectives of the kind %s have no model here: the predictions leave them out", kind))
		}
		expected += cost.sent
		slack += headers * (float64(len(b.Collectives)) + cost.messages)
	}
	last := h.BytesByStep[len(h.BytesByStep)-1]
	if r.NoBytes == "" && math.Abs(last-expected) > 0.05*expected+slack {
		h.addWarning(fmt.Sprintf("a rank sent %.0f bytes in the last step, and the collectives that were seen make %.0f: the predictions are of the latter", last, expected))
	}
	if len(rank.Untimed) > 0 {
		h.addWarning(fmt.Sprintf("the time of its %s is counted as the hook's own, as it gives no future that was done at the end of the call", strings.Join(rank.Untimed, ", ")))
	}
}

func (h *HookReport) addWarning(text string) {
	if !slices.Contains(h.Warnings, text) {
		h.Warnings = append(h.Warnings, text)
	}
}

// Predict fills in each hook's predictions, when all hooks have run, for so many ranks. buckets are
// what rank 0 measured of each hook; nil where it failed.
func (r *Report) Predict(buckets [][]BucketCost, ranks []int) {
	for i := range r.Hooks {
		h := &r.Hooks[i]
		for _, network := range r.Networks {
			for _, n := range ranks {
				if h.Failure == nil {
					h.Predicted = append(h.Predicted, Predict(buckets[i], *r.Constants, r.Ranks, network, n, r.Passes))
				}
			}
		}
	}
}
