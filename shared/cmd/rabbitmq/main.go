// Command rabbitmq runs a private RabbitMQ from the binaries on the machine, until Ctrl-C: for development.
package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/service"
)

const usage = `Usage: rabbitmq

Runs a private RabbitMQ from the binaries on the machine. It is reached on this machine alone, its
data stays in a folder, and it ends with this program. When it is killed, it is started again.

Settings (environment):
`

type settings struct {
	Addr     string       `env:"ADDR" envDefault:"127.0.0.1:5673" help:"127.0.0.1:port to listen on; the port differs from that of a RabbitMQ that a package manager starts"`
	DataDir  string       `env:"DATA_DIR" envDefault:".edison" help:"folder in which rabbitmq/ holds the data"`
	LogLevel daemon.Level `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	var set settings
	err := service.Configure("rabbitmq", args, env, &set, stdout, func() {
		fmt.Fprint(stdout, usage)
		daemon.Help(stdout, settings{})
	})
	if err != nil {
		return err
	}
	logger := daemon.Logger(stdout, set.LogLevel)
	for {
		s, err := rabbitmq.Start(ctx, rabbitmq.Config{Dir: filepath.Join(set.DataDir, "rabbitmq"), Addr: set.Addr})
		if err != nil {
			return err
		}
		logger.InfoContext(ctx, "listening", "addr", s.Addr)
		select {
		case <-ctx.Done():
			s.Stop()
			logger.InfoContext(context.WithoutCancel(ctx), "stopped")
			return nil
		case <-s.Exited():
			s.Kill()
			logger.WarnContext(ctx, "RabbitMQ ended, and is started again", "error", s.Failure())
		}
	}
}
