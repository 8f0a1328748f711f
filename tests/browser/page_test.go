// Package browser opens the page that pyhook compare writes in a real browser. It is a module of its
// own, so that the library needs none of what it needs: see scripts/test.sh browser.
package browser

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// written runs the real command and returns its page.
func written(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	command := filepath.Join(folder, "pyhook")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", command, "pyhook/cmd/pyhook")
	build.Dir = "../.."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	page := filepath.Join(folder, "hooks.html")
	out, err = exec.Command(command, "compare", "allreduce", "fp16", "powersgd,matrix_approximation_rank=2", "--model", "digits", "--steps", "8", "--train", "--html", page).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return page
}

func TestPage(t *testing.T) {
	path := os.Getenv("PYHOOK_CHROMIUM")
	require.NotEmpty(t, path, "PYHOOK_CHROMIUM names the browser: scripts/test.sh browser finds it")
	page := written(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.WindowSize(1400, 1800))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	defer stop()
	ctx, stop := chromedp.NewContext(allocator)
	defer stop()
	ctx, stop = context.WithTimeout(ctx, 3*time.Minute)
	defer stop()

	var mu sync.Mutex
	var asked, said []string
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			asked = append(asked, e.Request.URL)
		case *runtime.EventExceptionThrown:
			said = append(said, e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			said = append(said, string(e.Type))
		}
	}))
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	require.NoError(t, err)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate("file://"+page), chromedp.WaitReady(chromedp.CSS("#chart-loss"))))
	names := evaluate[[]string](ctx, t, `Object.keys(window.charts)`)
	rows := evaluate[[]string](ctx, t, `[...document.querySelectorAll("#measured tr")].map((row) => [...row.cells].map((cell) => cell.textContent).join(" | "))`)
	assert.Equal(t, []string{"error", "accumulated", "bytes", "time", "net0", "net1", "net2", "loss"}, names)
	require.Len(t, rows, 4)
	assert.Regexp(t, `^allreduce \| 341 kB \| .* \| 0 B$`, rows[1])
	assert.Regexp(t, `^powersgd,matrix_approximation_rank=2 \| .* kB$`, rows[3])

	for _, name := range names {
		t.Run(name+" shows its values under the pointer", func(t *testing.T) {
			chart := `window.charts["` + name + `"]`
			require.NoError(t, chromedp.Do(ctx, chromedp.ScrollIntoView(chromedp.CSS("#chart-"+name))))
			at := evaluate[[]float64](ctx, t, `(() => { const chart = `+chart+`; const box = chart.canvas.getBoundingClientRect();
				const points = chart.getDatasetMeta(chart.data.datasets.length - 1).data.filter((p) => !Number.isNaN(p.y));
				const p = points[Math.floor(points.length / 2)]; return [box.x + p.x, box.y + p.y]; })()`)
			require.Len(t, at, 2)
			drawn := evaluate[int](ctx, t, `(() => { const c = `+chart+`.canvas; const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
				let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()`)
			assert.Greater(t, drawn, 1000, "pixels are drawn")
			require.NoError(t, chromedp.Do(ctx, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at[0], at[1])))
			shown, err := chromedp.Run(ctx, chromedp.Poll[string](`(() => { const tip = `+chart+`.tooltip; return tip.opacity > 0 && tip.body.map((b) => b.lines.join("")).join("\n"); })()`,
				chromedp.WithPollingTimeout(20*time.Second)))
			require.NoError(t, err)
			series := "allreduce: "
			if name == "time" {
				series = "collectives: "
			}
			if name == "error" || name == "accumulated" {
				series = "fp16: "
			}
			assert.Contains(t, shown, series)
			assert.NotContains(t, shown, "NaN")
			assert.NotContains(t, shown, "undefined")
		})
	}
	if folder := os.Getenv("PYHOOK_SCREENSHOTS"); folder != "" {
		image, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(folder, 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "compare.png"), image, 0o666))
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Empty(t, said, "nothing is thrown or logged")
	for _, url := range asked {
		assert.True(t, strings.HasPrefix(url, "file://"), "the page asks for %s", url)
	}
}

// evaluate runs a script in the page.
func evaluate[T any](ctx context.Context, t *testing.T, script string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	require.NoError(t, err)
	return v
}
