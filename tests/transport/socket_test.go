package transport_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"pyhook/c10d/transport"
)

// socket is the tests' transport: messages over unix sockets. It shows nothing
// but Send and Recv.
type socket struct {
	rank  int
	peers []*peer // nil for the own rank
}

type peer struct {
	conn  net.Conn
	write sync.Mutex

	mu    sync.Mutex
	inbox map[transport.Tag]chan []byte
	err   error
	gone  chan struct{}
}

const header = 24 // tag, tag, length

// connect meets the other ranks in dir.
func connect(dir string, rank, size int) (*socket, error) {
	s := &socket{rank: rank, peers: make([]*peer, size)}
	name := func(rank int) string { return filepath.Join(dir, "s"+strconv.Itoa(rank)) }
	listener, err := net.Listen("unix", name(rank))
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	for to := range rank {
		conn, err := dial(name(to))
		if err != nil {
			return nil, err
		}
		if _, err := conn.Write([]byte{byte(rank)}); err != nil {
			return nil, err
		}
		s.add(to, conn)
	}
	for range size - 1 - rank {
		conn, err := listener.Accept()
		if err != nil {
			return nil, err
		}
		var from [1]byte
		if _, err := io.ReadFull(conn, from[:]); err != nil {
			return nil, err
		}
		s.add(int(from[0]), conn)
	}
	return s, nil
}

func dial(name string) (conn net.Conn, err error) {
	for range 3000 {
		if conn, err = net.Dial("unix", name); err == nil {
			return conn, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, err
}

func (s *socket) add(rank int, conn net.Conn) {
	p := &peer{conn: conn, inbox: map[transport.Tag]chan []byte{}, gone: make(chan struct{})}
	s.peers[rank] = p
	go func() {
		p.err = p.read()
		close(p.gone)
	}()
}

func (p *peer) read() error {
	for {
		var head [header]byte
		if _, err := io.ReadFull(p.conn, head[:]); err != nil {
			return err
		}
		data := make([]byte, binary.LittleEndian.Uint64(head[16:]))
		if _, err := io.ReadFull(p.conn, data); err != nil {
			return err
		}
		p.box(transport.Tag{Group: binary.LittleEndian.Uint64(head[:]), Message: binary.LittleEndian.Uint64(head[8:])}) <- data
	}
}

// box is where messages of a tag wait; collectives have one of each tag.
func (p *peer) box(tag transport.Tag) chan []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	box := p.inbox[tag]
	if box == nil {
		box = make(chan []byte, 64)
		p.inbox[tag] = box
	}
	return box
}

func (s *socket) Rank() int { return s.rank }
func (s *socket) Size() int { return len(s.peers) }

type peerGone struct{ Rank int }

func (e *peerGone) Error() string { return fmt.Sprintf("rank %d hung up", e.Rank) }

func (s *socket) Send(_ context.Context, to int, tag transport.Tag, data []byte) error {
	p := s.peers[to]
	head := make([]byte, 0, header+len(data))
	for _, x := range []uint64{tag.Group, tag.Message, uint64(len(data))} {
		head = binary.LittleEndian.AppendUint64(head, x)
	}
	p.write.Lock()
	defer p.write.Unlock()
	if _, err := p.conn.Write(append(head, data...)); err != nil {
		return &peerGone{to}
	}
	return nil
}

func (s *socket) Recv(ctx context.Context, from int, tag transport.Tag, data []byte) error {
	p := s.peers[from]
	var got []byte
	select {
	case got = <-p.box(tag):
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.gone:
		select {
		case got = <-p.box(tag): // what came before the end counts
		default:
			return &peerGone{from}
		}
	}
	if tag.Message>>63 == 0 { // the only one of its tag
		p.mu.Lock()
		delete(p.inbox, tag)
		p.mu.Unlock()
	}
	if len(got) != len(data) {
		return fmt.Errorf("rank %d sent %d bytes where %d are received", from, len(got), len(data))
	}
	copy(data, got)
	return nil
}

func (s *socket) hangUp() {
	for _, p := range s.peers {
		if p != nil {
			p.conn.Close()
		}
	}
}
