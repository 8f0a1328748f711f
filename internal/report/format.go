package report

import (
	"fmt"
	"time"
)

// Bytes is a size for people: "0 B", "1.2 kB", "34 MB" (powers of 1000).
func Bytes(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 999.5 && unit < 4 {
		value /= 1000
		unit++
	}
	suffix := []string{"B", "kB", "MB", "GB", "TB"}[unit]
	if value < 9.95 {
		return fmt.Sprintf("%.1f %s", value, suffix)
	}
	return fmt.Sprintf("%.0f %s", value, suffix)
}

// Duration is a time with three digits: "850 us", "1.25 ms", "3.40 s".
func Duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d us", d.Microseconds())
	case d < time.Second:
		return digits3(float64(d)/float64(time.Millisecond)) + " ms"
	default:
		return digits3(d.Seconds()) + " s"
	}
}

func digits3(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// Seconds is Duration of seconds.
func Seconds(s float64) string { return Duration(time.Duration(s * 1e9)) }

// Relative is a relative error: "0", "1.2e-05".
func Relative(v float64) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%.1e", v)
}

// Count is n and a noun, with an s where there is not one: "1 rank", "2 ranks".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
