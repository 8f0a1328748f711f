package cbridge

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// keepAlive makes a write to a closed pipe or socket (SIGPIPE), or past the limit of
// a file's size (SIGXFSZ), an error of that write. The python command ignores both,
// so hooks and torch count on it. Go does so on its own threads only: on one of
// gloo's, whose peer has died, SIGPIPE would end the process without a word
// (runtime.raisebadsignal).
//
// Notify, and not Ignore, which programs that are started would inherit. Nobody
// reads the channel.
var keepAlive = sync.OnceFunc(func() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGXFSZ)
})
