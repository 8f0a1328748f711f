//go:build !linux

package wire

func openSockets() (map[uint64]uint64, error) { return nil, ErrUnsupported }
