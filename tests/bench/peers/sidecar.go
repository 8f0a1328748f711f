package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pyhook/tests/bench/peers/side"
)

// sidecar is a gRPC server in Python, on a socket of the file system, and a connection to it. The
// message is protobuf's own BytesValue: no code is generated.
type sidecar struct {
	*child
	ctx        context.Context
	folder     string
	connection *grpc.ClientConn
	buckets    [][]float32
	streams    []grpc.ClientStream // one a caller; nil: each call is an RPC
}

const service = "/peers.Hook/"

// openSidecar starts the server; streaming: a caller's calls are the messages of one stream.
func openSidecar(streaming bool) func(context.Context, side.Case) (side.Bench, error) {
	return func(ctx context.Context, c side.Case) (_ side.Bench, err error) {
		s := &sidecar{ctx: ctx, buckets: newBuckets(c)}
		if s.folder, err = os.MkdirTemp("", "peers"); err != nil {
			return nil, err
		}
		socket := filepath.Join(s.folder, "socket")
		if s.child, err = startChild(nil, "sidecar.py", c.Hook, socket); err != nil {
			return nil, err
		}
		if _, err := bufio.NewReader(s.out).ReadString('\n'); err != nil {
			return nil, fmt.Errorf("the sidecar has not started: %w", errors.Join(err, s.child.Close()))
		}
		s.connection, err = grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
		if err != nil {
			return nil, errors.Join(err, s.child.Close())
		}
		for range c.Callers {
			if !streaming {
				break
			}
			stream, err := s.connection.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, service+"Stream")
			if err != nil {
				return nil, errors.Join(err, s.Close())
			}
			s.streams = append(s.streams, stream)
		}
		return s, nil
	}
}

func (s *sidecar) Bucket(caller int) []float32 { return s.buckets[caller] }

func (s *sidecar) Call(caller int) error {
	bucket := asBytes(s.buckets[caller])
	request, answer := &wrapperspb.BytesValue{Value: bucket}, new(wrapperspb.BytesValue)
	var err error
	if s.streams == nil {
		err = s.connection.Invoke(s.ctx, service+"Run", request, answer)
	} else if err = s.streams[caller].SendMsg(request); err == nil {
		err = s.streams[caller].RecvMsg(answer)
	}
	if err != nil {
		return err
	}
	if len(answer.Value) != len(bucket) {
		return fmt.Errorf("a result of %d bytes for a bucket of %d", len(answer.Value), len(bucket))
	}
	copy(bucket, answer.Value)
	return nil
}

// Copied: each way the message is made, goes into the kernel and out of it, and is parsed; Python
// takes the bytes from gRPC, makes them writable, and makes bytes of the result; Go copies it to the
// bucket. What the two libraries of gRPC copy inside is not counted.
func (s *sidecar) Copied() (int64, bool) { return 12 * 4 * int64(len(s.buckets[0])), true }

func (s *sidecar) Close() error {
	var err error
	for _, stream := range s.streams {
		err = errors.Join(err, stream.CloseSend())
	}
	return errors.Join(err, s.connection.Close(), s.child.Close(), os.RemoveAll(s.folder))
}
