// Command mailsink accepts every mail, delivers none, and shows them on a page: for development.
package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/web"
)

const usage = `Usage: mailsink

Takes every mail that is sent to it, delivers none, and shows them on a page.

Settings (environment):
`

type settings struct {
	service.HTTPSettings
	Sink sinkSettings
}

type sinkSettings struct {
	SMTPAddr string `env:"SMTP_ADDR" envDefault:"127.0.0.1:1025" help:"host:port to take mails at"`
	MailDir  string `env:"MAIL_DIR" help:"folder that keeps the mails over a restart; only in memory if left out"`
}

var shell = service.Service{Name: "mailsink", Title: "Mail sink", Addr: "127.0.0.1:8025"}

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	var set settings
	err := service.Configure("mailsink", args, env, &set, stdout, func() {
		fmt.Fprint(stdout, usage)
		shell.Help(stdout, sinkSettings{})
	})
	if err != nil {
		return err
	}
	logger := daemon.Logger(stdout, set.LogLevel)
	sink := &mailsink.Sink{Dir: set.Sink.MailDir}
	if err := sink.Open(); err != nil {
		return fmt.Errorf("open MAIL_DIR: %w", err)
	}
	mails, err := new(net.ListenConfig).Listen(ctx, "tcp", set.Sink.SMTPAddr)
	if err != nil {
		return fmt.Errorf("take mails: %w; SMTP_ADDR sets another address", err)
	}
	defer mails.Close()
	p, err := service.Open(ctx, shell, service.Settings{HTTPSettings: set.HTTPSettings}, logger)
	if err != nil {
		return err
	}
	defer p.Close()
	p.Health(sink.Ready)
	p.Nav = func(*gin.Context) []web.Link { return mailsink.Nav(false) }
	sink.Route(p.Operators)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return sink.Serve(ctx, mails, logger) })
	all.Go(func() error { return p.Serve(ctx) })
	return all.Wait()
}
