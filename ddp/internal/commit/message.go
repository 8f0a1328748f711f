package commit

// message is what members and the coordinator send each other: a line of JSON.
type message struct {
	Kind kind `json:"kind"`
	// Token and Rank are hello's.
	Token string `json:"token,omitempty"`
	Rank  int    `json:"rank,omitempty"`
	// Step is the vote's and the decision's.
	Step uint64 `json:"step,omitempty"`
	// Failure is why the vote is no, or the decision; absent: yes.
	Failure *Failure `json:"failure,omitempty"`
	// Meeting is that of meet; met has All, by rank, or Failure. Data is what a rank brings to it, or
	// to its vote.
	Meeting uint64   `json:"meeting,omitempty"`
	Data    []byte   `json:"data,omitempty"`
	All     [][]byte `json:"all,omitempty"`
}

type kind string

// What members send.
const (
	hello kind = "hello"
	vote  kind = "vote"
	meet  kind = "meet"
	bye   kind = "bye" // it leaves, orderly
	// withdraw is a meet taken back; the answer is withdrawn, or met, which was on its way.
	withdraw kind = "withdraw"
	ping     kind = "ping" // is the other side there? The coordinator asks it too
	pong     kind = "pong"
)

// What the coordinator sends.
const (
	welcome   kind = "welcome" // all members have come
	decided   kind = "decided"
	met       kind = "met"
	withdrawn kind = "withdrawn"
)

// Failure says why a step does not count.
type Failure struct {
	// Rank is where it began.
	Rank int `json:"rank"`
	// Over is whether that rank's collectives of the step had all ended, so that nobody waits for
	// it. Of a decision: it holds for every rank, and the next step can begin.
	Over bool `json:"over,omitempty"`
	// Weak is whether it may follow from another rank's failure, as a lost peer does, so that the
	// coordinator waits a moment for that. Not of one that is Over.
	Weak bool `json:"weak,omitempty"`
	// Cause is the caller's.
	Cause []byte `json:"cause,omitempty"`
	// Gone is the reason why rank Rank takes part no more: its process ended, or it left. Then there
	// is no Cause.
	Gone string `json:"gone,omitempty"`
	// Silent is whether rank Rank is frozen or cut off: the others waited for its vote, and it did not
	// say that it is there. Then there is no Cause.
	Silent bool `json:"silent,omitempty"`
}
