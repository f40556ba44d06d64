package web

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Limits bound what clients can hold of a server at once. The zero value of each is a default that follows from the
// limit of open files and from GOMAXPROCS; see [Limits.Complete].
type Limits struct {
	// Beyond Waiting a request is answered without waiting.
	Waiting Bound `env:"MAX_WAITING" help:"requests that may wait (Prefer: wait) at the same time, in all/per client: 10000/2500; by default half of the connections that the limit of open files allows, and a quarter of these"`
	// Beyond Streams a request for one is refused: 429 if its client has its share, else 503.
	Streams Bound `env:"MAX_STREAMS" help:"event streams that may be open at the same time, in all/per client; by default an eighth of the connections, and a quarter of these"`
	// Beyond Rendering a page waits for its turn, for a bounded time.
	Rendering int `env:"MAX_RENDERING" help:"pages of feeds that may be rendered at the same time; by default half of the cores, at least 1"`
}

// A Bound says how many there may be at once.
type Bound struct{ All, Client int }

// UnmarshalText reads 1000/250, or 1000 with a quarter of it for one client.
func (b *Bound) UnmarshalText(text []byte) error {
	all, client, both := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(all, 10, 31)
	m := max(n/4, 1)
	if err == nil && both {
		m, err = strconv.ParseUint(client, 10, 31)
	}
	if err != nil || m < 1 || m > n {
		return errors.New("takes the limit in all, or in all and per client, such as 1000 or 1000/250")
	}
	*b = Bound{int(n), int(m)}
	return nil
}

// Complete returns the limits with the defaults of this process, or an error if they allow more connections than it can
// have.
func (l Limits) Complete() (Limits, error) {
	if l.Rendering < 0 {
		return l, errors.New("MAX_RENDERING takes a whole number from 1")
	}
	connections := MaxConnections()
	if l.Waiting == (Bound{}) {
		l.Waiting = quarters(min(connections/2, 20_000))
	}
	if l.Streams == (Bound{}) {
		l.Streams = quarters(min(connections/8, 4000))
	}
	if l.Rendering == 0 {
		l.Rendering = max(runtime.GOMAXPROCS(0)/2, 1)
	}
	if l.Waiting.All+l.Streams.All >= connections {
		return l, fmt.Errorf("MAX_WAITING and MAX_STREAMS are %d together, but the limit of open files, %d, allows %d connections, and some must remain",
			l.Waiting.All+l.Streams.All, openFiles(), connections)
	}
	return l, nil
}

func quarters(all int) Bound { return Bound{max(all, 1), max(all/4, 1)} }

// MaxConnections returns how many connections clients may have to this process.
func MaxConnections() int { return maxConnections(openFiles()) }

// maxConnections returns how many connections of clients a limit of open files allows. Some files remain for the
// database, for sources, certificates and the log.
func maxConnections(files int) int { return max(files-64-files/16, files/2) }

// openFiles returns the limit of open files of this process.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<24))
}
