package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"pyhook/internal/cli"
	"pyhook/internal/report"
)

// printDoctor writes the diagnosis for people.
func printDoctor(p *report.Printer, r *doctorReport) {
	p.Table("", report.AlignLeft, append(pythonRows(p, r), torchRows(p, r)...))
	p.Printf("\n")
	for _, c := range r.Checks {
		printDoctorCheck(p, &c)
	}
	p.Printf("\n%s\n", verdict(p, r))
}

func row(p *report.Printer, name, value, note string) []report.Cell {
	return []report.Cell{{Text: name, Style: p.Bold}, {Text: value + dimmed(p, note)}}
}

// dimmed is a note behind a value; the last column may have styles in its text.
func dimmed(p *report.Printer, note string) string {
	if note == "" {
		return ""
	}
	return p.Dim(" (" + note + ")")
}

func pythonRows(p *report.Printer, r *doctorReport) [][]report.Cell {
	rows := [][]report.Cell{row(p, "pyhook", r.Version, "")}
	if r.Python != nil {
		version := r.Python.Version
		if r.Python.FreeThreaded {
			version += " free-threaded"
		}
		rows = append(rows, row(p, "Python", version+" "+r.Python.Executable, "chosen by "+r.Python.Source))
		if r.Python.Library != "" {
			rows = append(rows, row(p, "library", r.Python.Library, ""))
		}
		kind := ""
		if r.Python.VirtualEnv {
			kind = "a virtual environment"
		}
		rows = append(rows, row(p, "prefix", r.Python.Prefix, kind))
	}
	for _, attempt := range r.Refused {
		rows = append(rows, row(p, "refused", attempt.What+": "+attempt.Why, ""))
	}
	return rows
}

func torchRows(p *report.Printer, r *doctorReport) [][]report.Cell {
	if r.Torch == nil {
		return nil
	}
	numpy := "no numpy"
	if r.Torch.Numpy != nil {
		numpy = "numpy " + *r.Torch.Numpy
	}
	gpu := "none that torch can use"
	if len(r.Torch.Devices) > 0 {
		gpu = strings.Join(r.Torch.Devices, ", ")
	}
	rows := [][]report.Cell{row(p, "torch", r.Torch.Version, numpy), row(p, "GPU", gpu, "")}
	var absent []string
	for _, name := range slices.Sorted(maps.Keys(r.Backends)) {
		b := r.Backends[name]
		switch {
		case !b.BuiltIn:
			absent = append(absent, name)
		case b.Error != "":
			rows = append(rows, row(p, name, "does not work", "see below"))
		case !b.Tried:
			rows = append(rows, row(p, name, "built in", "not tried"))
		default:
			works, refuses := splitDTypes(b.DTypes)
			rows = append(rows, row(p, name, "all-reduces "+strings.Join(works, " "), report.Count(b.Ranks, "rank")+" tried"))
			if len(refuses) > 0 {
				rows = append(rows, row(p, "", p.Doubtful("not ")+strings.Join(refuses, " "), ""))
			}
		}
	}
	if len(absent) > 0 {
		rows = append(rows, row(p, "not built in", strings.Join(absent, " "), ""))
	}
	return rows
}

// splitDTypes keeps the order in which people think of dtypes.
func splitDTypes(dtypes map[string]string) (works, refuses []string) {
	order := []string{"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool", "complex64", "complex128"}
	names := slices.Sorted(maps.Keys(dtypes))
	slices.SortStableFunc(names, func(a, b string) int { return indexOrLen(order, a) - indexOrLen(order, b) })
	for _, name := range names {
		if dtypes[name] == "" {
			works = append(works, name)
		} else {
			refuses = append(refuses, name)
		}
	}
	return works, refuses
}

func indexOrLen(order []string, name string) int {
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}

func printDoctorCheck(p *report.Printer, c *doctorCheck) {
	marks := map[string]string{statusOK: p.Good("ok      "), statusWarning: p.Doubtful("warning "), statusProblem: p.Bad("problem ")}
	lines := strings.Split(c.Message, "\n")
	p.Printf("%s %s\n", marks[c.Status], lines[0])
	for _, line := range lines[1:] {
		p.Printf("         %s\n", p.Dim(line))
	}
	if c.Hint != "" {
		p.Hint("         ", c.Hint)
	}
}

func verdict(p *report.Printer, r *doctorReport) string {
	counts := map[string]int{}
	for _, c := range r.Checks {
		counts[c.Status]++
	}
	warnings := ""
	if n := counts[statusWarning]; n > 0 {
		warnings = ", " + report.Count(n, "warning")
	}
	switch {
	case r.Healthy && r.Quick:
		return p.Good("ready") + warnings + p.Dim(" (the backends were not tried: --quick)")
	case r.Healthy:
		return p.Good("ready") + warnings
	case r.ExitCode == cli.ExitNoPython:
		return p.Bad("not ready") + ": no Python to run hooks with"
	}
	return fmt.Sprintf("%s: %s%s", p.Bad("not ready"), report.Count(counts[statusProblem], "problem"), warnings)
}
