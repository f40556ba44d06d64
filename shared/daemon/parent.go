package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// StopWithParent is the environment variable by which a parent makes a program stop when the parent is gone. Its value
// is the parent's process id; 1 is the parent at the start.
const StopWithParent = "EDISON_STOP_WITH_PARENT"

const parentPoll = 250 * time.Millisecond

// parent returns a channel that is closed when the parent process is gone. It is never closed unless
// StopWithParent is set or `go run` started the program: neither a `go run` that is killed nor one
// that gets SIGTERM passes that on.
func parent(env map[string]string) (<-chan struct{}, error) {
	pid := os.Getppid()
	want := pid
	if v := env[StopWithParent]; v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return nil, Usagef("%s=%q: takes the process id of the parent, or 1", StopWithParent, v)
		}
		if n > 1 {
			want = n // differs from pid if the parent died before this line
		}
	} else {
		if executable, _ := os.Executable(); !builtByGoRun(executable) {
			return nil, nil
		}
		if orphan(pid) {
			want = -1
		}
	}
	gone := make(chan struct{})
	go func() {
		for os.Getppid() == want {
			time.Sleep(parentPoll)
		}
		close(gone)
	}()
	return gone, nil
}

// cachedByGo matches the folder of an executable in the build cache of `go run`: <hash>-d.
var cachedByGo = regexp.MustCompile(`^[0-9a-f]{64}-d$`)

// builtByGoRun reports whether `go run` started the executable, as <temporary folder>/go-build*/b001/exe/NAME or, from
// its cache, <build cache>/xx/<hash>-d/NAME.
func builtByGoRun(executable string) bool {
	dir := filepath.Dir(executable)
	return cachedByGo.MatchString(filepath.Base(dir)) ||
		filepath.Base(dir) == "exe" && strings.HasPrefix(filepath.Base(filepath.Dir(filepath.Dir(dir))), "go-build")
}

// orphan reports whether the present parent has adopted the process, because the `go run` that started it is gone. In a
// container `go run` itself may be process 1.
func orphan(ppid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", ppid)) // Linux only
	comm := strings.TrimSpace(string(b))
	return ppid == 1 && comm != "go" || comm == "systemd"
}
