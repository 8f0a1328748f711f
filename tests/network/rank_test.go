package network_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// elements of a bucket: 8 MiB, which a slow wire takes a while for.
const elements = 2 << 20

// kinds are the errors whose names a rank sends.
var kinds = map[string]error{
	"ErrGroup": c10d.ErrGroup, "ErrPeer": c10d.ErrPeer, "ErrJoinTimeout": c10d.ErrJoinTimeout, "ErrRank": c10d.ErrRank,
	"ErrWorldSize": c10d.ErrWorldSize, "ErrAddress": c10d.ErrAddress, "ErrPortInUse": c10d.ErrPortInUse,
	"ErrNotAStore": c10d.ErrNotAStore, "ErrTorchVersion": c10d.ErrTorchVersion, "ErrInterrupted": c10d.ErrInterrupted, "ErrRaised": c10d.ErrRaised,
	"ErrFutureFailed": c10d.ErrFutureFailed,
	"ErrUnsupported":  errors.ErrUnsupported, "DeadlineExceeded": context.DeadlineExceeded,
}

func lockThread() func() {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}

// trainer is a rank's process from inside.
type trainer struct {
	rankConfig
	rt    *pyhook.Runtime
	group *pyhook.TorchGroup
	hook  *pyhook.PythonCommHook

	reducer *ddp.Reducer // of "reduce"; made at the first one
}

// serve is a rank's process: it does what the test sends.
func serve(text string) error {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	t := &trainer{}
	if err := json.Unmarshal([]byte(text), &t.rankConfig); err != nil {
		return err
	}
	file := os.NewFile(3, "talk")
	conn, err := net.FileConn(file)
	if err != nil {
		return err
	}
	file.Close()
	if err := rename(t.rankConfig); err != nil {
		return err
	}
	tun, err := plug(t.Machine)
	if err != nil {
		return err
	}
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte{0}, unix.UnixRights(tun), nil); err != nil {
		return err
	}
	unix.Close(tun)
	if t.rt, err = pyhook.Start(context.Background(), pyhook.Config{}); err != nil {
		return err
	}
	commands, answers := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var command string
		if err := commands.Decode(&command); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		begin := time.Now()
		sum, err := t.do(command)
		a := answer{OK: err == nil, Sum: sum, Took: time.Since(begin), Torch: t.rt.Info().Torch}
		a.explain(err)
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

func (a *answer) explain(err error) {
	if err == nil {
		return
	}
	a.Err = err.Error()
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			a.Kinds = append(a.Kinds, name)
		}
	}
	var hook *c10d.Error
	if errors.As(err, &hook) {
		a.Hook, a.Rank, a.Bucket, a.Hint = hook.Op, hook.Rank, hook.Bucket, hook.Hint
	}
}

func (t *trainer) do(command string) (bool, error) {
	ctx := context.Background()
	command, canceled := strings.CutSuffix(command, " and cancel")
	if canceled {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	switch name, rest, _ := strings.Cut(command, " "); name {
	case "ready":
		return true, nil
	case "join":
		return true, t.join(ctx, rest)
	case "step":
		return t.step(ctx)
	case "reduce":
		return t.reduce(ctx)
	case "recover":
		return true, t.reducer.Recover(ctx)
	case "occupy":
		return true, occupy(rest)
	case "interface":
		return true, t.setenv("GLOO_SOCKET_IFNAME", rest)
	case "abort":
		return true, t.group.Abort()
	case "close":
		return true, t.rt.Close()
	case "exit":
		os.Exit(0)
	}
	return false, fmt.Errorf("no command %q", command)
}

// join joins as the rank of a world and at the port that as names, or as its configuration does.
func (t *trainer) join(ctx context.Context, as string) error {
	rank, size, port := t.Rank, t.Size, t.Port
	if as != "" {
		if _, err := fmt.Sscan(as, &rank, &size, &port); err != nil {
			return err
		}
	}
	method := "tcp://" + net.JoinHostPort(t.Addr, strconv.Itoa(port))
	group, err := t.rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", InitMethod: method, Rank: rank, Size: size, Timeout: t.Timeout})
	if err != nil {
		return err
	}
	t.group = group
	t.hook, err = t.rt.NewHook(ctx, "wire_hooks:"+t.Hook, pyhook.HookConfig{})
	return err
}

// setenv changes Python's environment, which is read at its start.
func (t *trainer) setenv(name, value string) error {
	module, err := t.rt.Import(context.Background(), "os")
	if err != nil {
		return err
	}
	defer module.Close()
	environ, err := module.Attr("environ")
	if err != nil {
		return err
	}
	defer environ.Close()
	_, err = environ.CallValue("__setitem__", name, value)
	return err
}

// occupy serves something else at a port: HTTP, or nothing but an open connection.
func occupy(what string) error {
	var port int
	var how string
	if _, err := fmt.Sscan(what, &port, &how); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return err
	}
	go func() {
		var kept []net.Conn // one that is forgotten would be closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			kept = append(kept, c)
			_ = kept
			if how == "http" {
				go answerHTTP(c)
			}
		}
	}()
	return nil
}

// answerHTTP answers whatever comes as nginx does what is no HTTP.
func answerHTTP(c net.Conn) {
	if _, err := c.Read(make([]byte, 1)); err == nil {
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
	}
}

// reduce is a step of a Reducer with two buckets of ones, and says whether the results are right.
func (t *trainer) reduce(ctx context.Context) (bool, error) {
	if t.reducer == nil {
		var params []*c10d.Parameter
		for i := range 2 {
			params = append(params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: []int64{elements}, DType: tensor.Float32})
		}
		var err error
		if t.reducer, err = ddp.NewReducer(ctx, params, ddp.Options{Group: t.group, Hook: t.hook, BucketCapMB: 1}); err != nil {
			return false, err
		}
	}
	for i := range 2 {
		g, err := tensor.Slice[float32](t.reducer.Gradient(i))
		if err != nil {
			return false, err
		}
		for k := range g {
			g[k] = 1
		}
		if err := t.reducer.Ready(i); err != nil {
			return false, err
		}
	}
	if _, err := t.reducer.Wait(ctx); err != nil {
		return false, err
	}
	for i := range 2 {
		g, err := tensor.Slice[float32](t.reducer.Gradient(i))
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(g, func(x float32) bool { return x != float32(t.Size) }) {
			return false, nil
		}
	}
	return true, nil
}

// step reduces a bucket of ones, and says whether the result is right.
func (t *trainer) step(ctx context.Context) (bool, error) {
	buffer, err := tensor.New(tensor.Float32, elements)
	if err != nil {
		return false, err
	}
	defer buffer.Close()
	values, err := tensor.Slice[float32](buffer)
	if err != nil {
		return false, err
	}
	for i := range values {
		values[i] = 1
	}
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 3, Count: 4, Buffer: buffer, Offsets: []int64{0},
		Lengths: []int64{elements}, Sizes: [][]int64{{elements}}})
	if err != nil {
		return false, err
	}
	defer b.Close()
	future, err := t.hook.RunHook(ctx, b)
	if err != nil {
		return false, err
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		return false, err
	}
	result, err := t.hook.ParseHookResult(b, value)
	if err != nil {
		return false, err
	}
	defer result.Close()
	got, err := tensor.Slice[float32](result)
	if err != nil {
		return false, err
	}
	for _, v := range got {
		if v != float32(t.Size) {
			return false, nil
		}
	}
	return true, nil
}
