// Command mailsink takes every mail, delivers none, and shows them on a page: for development.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/mailsink"
	"github.com/edison-cars/data-feeds/shared/web"
)

const usage = `Usage: mailsink

Takes every mail that is sent to it, delivers none, and shows them on a page.

Settings (environment):
`

type settings struct {
	Addr     string `env:"ADDR" envDefault:"127.0.0.1:8025" help:"host:port of the page"`
	SMTPAddr string `env:"SMTP_ADDR" envDefault:"127.0.0.1:1025" help:"host:port to take mails at"`
	MailDir  string `env:"MAIL_DIR" help:"folder that keeps the mails over a restart; only in memory if left out"`
	LogLevel string `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	flags := flag.NewFlagSet("mailsink", flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.Usage = func() {
		fmt.Fprint(stdout, usage)
		daemon.Help(stdout, settings{})
	}
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	if flags.NArg() > 0 {
		return daemon.Usagef("mailsink takes no argument %q; see --help", flags.Arg(0))
	}
	var set settings
	if err := daemon.Parse(env, &set); err != nil {
		return err
	}
	logger, err := daemon.Logger(stdout, set.LogLevel)
	if err != nil {
		return err
	}
	sink := &mailsink.Sink{Dir: set.MailDir}
	if err := sink.Open(); err != nil {
		return fmt.Errorf("open MAIL_DIR: %w", err)
	}
	mails, err := new(net.ListenConfig).Listen(ctx, "tcp", set.SMTPAddr)
	if err != nil {
		return fmt.Errorf("take mails: %w; SMTP_ADDR sets another address", err)
	}
	defer mails.Close()
	ln, err := web.Listen(ctx, set.Addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	engine := web.New(logger)
	sink.Route(engine)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return sink.Serve(ctx, mails, logger) })
	all.Go(func() error { return web.ServeListener(ctx, ln, engine, logger) })
	return all.Wait()
}
