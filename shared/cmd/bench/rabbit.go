package main

import (
	"context"
	"fmt"
	"io"

	"github.com/edison-cars/data-feeds/shared/rabbitmq"
)

// findRabbit gives nil where there is none.
func findRabbit() *program {
	found, err := rabbitmq.Find()
	if err != nil {
		return nil
	}
	return &program{version: found.Version}
}

// serveRabbit runs a broker until ctx ends. Nobody wants its data.
func serveRabbit(ctx context.Context, dir string, stdout io.Writer) error {
	s, err := rabbitmq.Start(ctx, rabbitmq.Config{Dir: dir})
	if err != nil {
		if ctx.Err() != nil {
			err = nil
		}
		return err
	}
	defer s.Kill()
	fmt.Fprintln(stdout, s.Addr)
	select {
	case <-ctx.Done():
		return nil
	case <-s.Exited():
		return s.Failure()
	}
}
