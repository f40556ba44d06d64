// Command child says when it runs and when it was asked to stop.
package main

import (
	"context"
	"fmt"
	"io"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

func main() {
	daemon.Main(func(ctx context.Context, _ []string, _ map[string]string, stdout io.Writer) error {
		fmt.Fprintln(stdout, "running")
		<-ctx.Done()
		fmt.Fprintln(stdout, "stopped")
		return nil
	})
}
