package commit

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"pyhook/c10d"
	"pyhook/internal/gather"
)

// card is what ranks tell each other over the group before they connect.
type card struct {
	Host  string   `json:"host"`            // see hostID
	Terms []Term   `json:"terms"`           // the caller's
	Addrs []string `json:"addrs,omitempty"` // rank 0's, host:port
	Token string   `json:"token,omitempty"` // rank 0's
	Error string   `json:"error,omitempty"` // rank 0 cannot listen
}

// joinTime bounds Join where the caller's context does not: the ranks have met already, and need
// milliseconds.
const joinTime = time.Minute

var errLate = fmt.Errorf("not all ranks connected in %v", joinTime)

// Term is what all ranks must have alike. One without a value is compared with nothing.
type Term struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TermsError says which terms differ, and of each a rank that has another value than one before it.
type TermsError struct{ Differ []Difference }

// Difference is of two ranks.
type Difference struct {
	Name   string
	Ranks  [2]int
	Values [2]string
}

func (e *TermsError) Error() string { return fmt.Sprintf("the ranks' terms differ: %v", e.Differ) }

// differences are the same on every rank.
func differences(cards []card) (list []Difference) {
	for i, term := range cards[0].Terms {
		first := -1
	ranks:
		for rank, c := range cards {
			switch {
			case i >= len(c.Terms) || c.Terms[i].Name != term.Name: // another version of this package
				return append(list, Difference{term.Name, [2]int{0, rank}, [2]string{term.Value, "not known"}})
			case c.Terms[i].Value == "":
				continue
			case first < 0:
				first = rank
				continue
			case c.Terms[i].Value == cards[first].Terms[i].Value:
				continue
			}
			list = append(list, Difference{term.Name, [2]int{first, rank}, [2]string{cards[first].Terms[i].Value, c.Terms[i].Value}})
			break ranks
		}
	}
	return list
}

// Join connects this rank with rank 0. A collective over the group, and the last one here. onFailure
// is called, on a goroutine of the member's, for each decision that a step does not count. terms must
// be alike on every rank: else each gets a *TermsError. compare, on rank 0, may be nil: it gets what the
// ranks brought to a vote in which all said yes, if any did (nil of a rank that did not), and says why
// the step does not count for that, with Over, or nil. If ctx ends first the error is its own.
func Join(ctx context.Context, group c10d.ProcessGroup, terms []Term, onFailure func(step uint64, f *Failure), compare func(brought [][]byte) *Failure) (*Member, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, joinTime, errLate)
	defer cancel()
	rank, size := group.Rank(), group.Size()
	host := hostID()
	cards, err := gather.JSON(ctx, group, card{Host: host, Terms: terms})
	if err != nil {
		return nil, err
	}
	if differ := differences(cards); len(differ) > 0 {
		return nil, &TermsError{differ}
	}
	alone := !slices.ContainsFunc(cards, func(c card) bool { return c.Host != host })
	m := newMember(rank, onFailure)
	var mine card
	var s *server
	if rank == 0 {
		if s, err = listen(size, alone, compare); err != nil {
			mine.Error = err.Error()
		} else {
			mine.Addrs, mine.Token = s.addrs, s.token
		}
	}
	if cards, err = gather.JSON(ctx, group, mine); err == nil && cards[0].Error != "" {
		err = fmt.Errorf("rank 0 cannot listen for the other ranks: %s", cards[0].Error)
	}
	switch {
	case err != nil:
	case rank == 0:
		m.out = func(out message) error { s.c.handle(0, out); return nil }
		m.leave = s.close
		s.start(m.take)
	default:
		err = m.dial(ctx, cards[0])
	}
	if err == nil {
		err = m.wait(ctx, func() bool { return m.joined })
	}
	if err != nil {
		s.abort()
		if m.leave != nil {
			m.leave()
		}
		return nil, fmt.Errorf("connecting the ranks' votes: %w", err)
	}
	return m, nil
}

// server is rank 0's side of the connections.
type server struct {
	c        *coordinator
	listener net.Listener
	addrs    []string
	token    string

	mu    sync.Mutex
	conns []net.Conn
}

// listen opens the port: on the loopback address where all ranks share this host's network.
func listen(size int, alone bool, compare func([][]byte) *Failure) (*server, error) {
	address := ":0"
	if alone {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	token := make([]byte, 16)
	_, _ = rand.Read(token) // never fails
	s := &server{c: newCoordinator(size, compare), listener: listener, token: hex.EncodeToString(token)}
	if s.addrs, err = reachable(listener.Addr(), alone); err != nil {
		listener.Close()
		return nil, err
	}
	return s, nil
}

// start lets rank 0 and, as they come, the others in.
func (s *server) start(own func(message)) {
	s.admit(0, own)
	go func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return // closed
			}
			go s.serve(conn)
		}
	}()
}

// admit adds a member, and welcomes all once the last has come.
func (s *server) admit(rank int, send func(message)) bool {
	ok, complete := s.c.join(rank, send)
	if complete {
		s.listener.Close()
		s.c.welcome()
	}
	return ok
}

// helloTime is how long a connection may take to say who it is.
const helloTime = 10 * time.Second

func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	s.mu.Lock()
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	in := json.NewDecoder(conn)
	var first message
	_ = conn.SetReadDeadline(time.Now().Add(helloTime))
	if err := in.Decode(&first); err != nil || first.Kind != hello || subtle.ConstantTimeCompare([]byte(first.Token), []byte(s.token)) != 1 {
		return // whoever it is, it is no rank of ours
	}
	_ = conn.SetReadDeadline(time.Time{})
	if !s.admit(first.Rank, sender(conn)) {
		return
	}
	for {
		var m message
		if err := in.Decode(&m); err != nil {
			s.c.lost(first.Rank)
			return
		}
		s.c.handle(first.Rank, m)
	}
}

// close stops listening. The connections stay until the other ranks end them: what they were told
// last must reach them. s may be nil.
func (s *server) close() {
	if s != nil {
		s.listener.Close()
	}
}

// abort ends all connections, so that no rank waits for one that does not come. s may be nil.
func (s *server) abort() {
	if s == nil {
		return
	}
	s.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
}

// sendTime bounds a send to a peer whose buffers are full, which a frozen one's are after some
// thousand messages.
const sendTime = time.Second

func sender(conn net.Conn) func(message) {
	send := encoder(conn)
	return func(m message) {
		if send(m) != nil {
			conn.Close() // its reader notes that it is gone
		}
	}
}

func encoder(conn net.Conn) func(message) error {
	var mu sync.Mutex
	out := json.NewEncoder(conn)
	return func(m message) error {
		mu.Lock()
		defer mu.Unlock()
		_ = conn.SetWriteDeadline(time.Now().Add(sendTime))
		return out.Encode(m)
	}
}

// dial connects with rank 0 at whichever of its addresses answers first.
func (m *Member) dial(ctx context.Context, to card) error {
	found := make(chan net.Conn)
	failed := make(chan error, len(to.Addrs))
	ended, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, address := range to.Addrs {
		go func() {
			conn, err := (&net.Dialer{}).DialContext(ended, "tcp", address)
			if err != nil {
				failed <- err
				return
			}
			select {
			case found <- conn:
			case <-ended.Done():
				conn.Close()
			}
		}()
	}
	var errs []error
	for {
		select {
		case conn := <-found:
			return m.attach(conn, to.Token)
		case err := <-failed:
			if errs = append(errs, err); len(errs) == len(to.Addrs) {
				return fmt.Errorf("rank 0 cannot be reached: %w", errors.Join(errs...))
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// attach makes conn the way to the coordinator.
func (m *Member) attach(conn net.Conn, token string) error {
	m.out = encoder(conn)
	m.leave = func() { conn.Close() }
	if err := m.out(message{Kind: hello, Token: token, Rank: m.rank}); err != nil {
		conn.Close()
		return err
	}
	go func() {
		in := json.NewDecoder(conn)
		for {
			var got message
			if in.Decode(&got) != nil {
				m.end(&GoneError{0, lostReason})
				return
			}
			m.take(got)
		}
	}()
	return nil
}
