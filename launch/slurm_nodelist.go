package launch

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
)

// nodelist is a parsed Slurm host list. It stays folded: "n[0-99999]" is one entry.
//
// The grammar is that of slurm's src/common/hostlist.c:
//
//	list  = host {"," host}
//	host  = {text | "[" range {"," range} "]"}     several brackets multiply
//	range = number ["-" number]                    zero-padded to the first's width
type nodelist []hostPattern

type hostPattern []hostPart

// hostPart is literal text, or ranges when there are any.
type hostPart struct {
	text   string
	ranges []hostRange
}

type hostRange struct {
	low, high uint64
	width     int
}

var errEmptyHost = errors.New("has an empty host name")

func parseNodelist(text string) (nodelist, error) {
	var list nodelist
	for text != "" {
		end, err := hostEnd(text)
		if err != nil {
			return nil, err
		}
		host, err := parseHost(text[:end])
		if err != nil {
			return nil, err
		}
		list = append(list, host)
		if end == len(text) {
			return list, nil
		}
		text = text[end+1:]
	}
	return nil, errEmptyHost
}

// hostEnd finds the comma that is outside brackets.
func hostEnd(text string) (int, error) {
	inside := false
	for i, c := range []byte(text) {
		switch {
		case c == '[' && inside:
			return 0, errors.New("has a bracket inside a bracket")
		case c == '[':
			inside = true
		case c == ']' && !inside:
			return 0, errors.New("closes a bracket that it did not open")
		case c == ']':
			inside = false
		case c == ',' && !inside:
			return i, nil
		case c <= ' ' || c == 0x7f:
			return 0, errors.New("has a space or control character")
		}
	}
	if inside {
		return 0, errors.New("does not close a bracket")
	}
	return len(text), nil
}

// parseHost parses text whose brackets hostEnd found balanced.
func parseHost(text string) (hostPattern, error) {
	if text == "" {
		return nil, errEmptyHost
	}
	var host hostPattern
	for text != "" {
		literal, rest, bracket := strings.Cut(text, "[")
		if literal != "" {
			host = append(host, hostPart{text: literal})
		}
		if !bracket {
			break
		}
		inside, after, _ := strings.Cut(rest, "]")
		part := hostPart{}
		for r := range strings.SplitSeq(inside, ",") {
			parsed, err := parseRange(r)
			if err != nil {
				return nil, err
			}
			part.ranges = append(part.ranges, parsed)
		}
		host = append(host, part)
		text = after
	}
	return host, nil
}

func parseRange(text string) (hostRange, error) {
	from, to, isRange := strings.Cut(text, "-")
	low, err := strconv.ParseUint(from, 10, 63)
	if err != nil {
		return hostRange{}, fmt.Errorf("has %q where a number belongs", from)
	}
	r := hostRange{low: low, high: low, width: len(from)}
	if !isRange {
		return r, nil
	}
	if r.high, err = strconv.ParseUint(to, 10, 63); err != nil {
		return hostRange{}, fmt.Errorf("has %q where a number belongs", to)
	}
	if r.high < r.low {
		return hostRange{}, fmt.Errorf("has the range %q, which runs backwards", text)
	}
	return r, nil
}

// all yields every host in Slurm's order: the last bracket changes fastest.
func (l nodelist) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, host := range l {
			if !host.each("", yield) {
				return
			}
		}
	}
}

func (h hostPattern) each(prefix string, yield func(string) bool) bool {
	if len(h) == 0 {
		return yield(prefix)
	}
	if h[0].ranges == nil {
		return h[1:].each(prefix+h[0].text, yield)
	}
	for _, r := range h[0].ranges {
		for n := r.low; n <= r.high; n++ {
			if !h[1:].each(fmt.Sprintf("%s%0*d", prefix, r.width, n), yield) {
				return false
			}
		}
	}
	return true
}

func (l nodelist) first() string {
	for host := range l.all() {
		return host
	}
	return ""
}

// count saturates at the largest 32-bit number: no cluster is that large, and
// the check of Nodes against the world size refuses it.
func (l nodelist) count() int {
	const most = uint64(math.MaxInt32)
	var total uint64
	for _, host := range l {
		hosts := uint64(1)
		for _, part := range host {
			if part.ranges == nil {
				continue
			}
			var n uint64
			for _, r := range part.ranges {
				n = min(most, n+min(most, r.high-r.low+1))
			}
			hosts = min(most, hosts*n)
		}
		total = min(most, total+hosts)
	}
	return int(total)
}
