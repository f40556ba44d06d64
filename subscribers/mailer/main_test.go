package mailer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) {
	time.Local = time.FixedZone("elsewhere", 5*3600+1800) // so that a forgotten UTC shows
	exectest.Main(func(ctx context.Context, env map[string]string, stdout io.Writer) error {
		env["ACCESS"] = "open"
		return Service().Run(ctx, env, stdout)
	})
	pgtest.Main(m)
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func orderID(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, "order ", n)) }
func customerID(n int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, "customer ", n))
}

// anOrder returns a version of order n, of customer n.
func anOrder(n int, version int64, status order.Status) order.Order {
	return order.Order{
		ID: orderID(n), Version: version, Status: status, CustomerID: customerID(n), TotalCents: 5_594_000, Currency: "EUR",
		Lines:    []order.Line{{Model: "volta", Options: []string{"heat_pump", "long_range"}, Quantity: 2, UnitPriceCents: 2_797_000}},
		PlacedAt: feed.TimeOf(noon.Add(time.Duration(n) * time.Second)), UpdatedAt: feed.TimeOf(noon.Add(time.Duration(n)*time.Second + time.Duration(version)*time.Millisecond)),
	}
}

func email(n int) string { return fmt.Sprintf("buyer%d@mail.example", n) }

func aCustomer(n int, version int64) customer.Customer {
	return customer.Customer{ID: customerID(n), Version: version, Name: fmt.Sprintf("Zoë Müller %d", n), Email: email(n), EmailConfirmed: true, UpdatedAt: feed.TimeOf(noon.Add(time.Duration(version) * time.Second))}
}

// orderEntry is a place in the feed; without a status the order is deleted.
func orderEntry(t testing.TB, position int64, n int, version int64, status order.Status) feed.Entry {
	t.Helper()
	e := feed.Entry{Position: position, ID: orderID(n), Version: version, Deleted: status == ""}
	if !e.Deleted {
		e.Entity = rawJSON(t, anOrder(n, version, status))
	}
	return e
}

func customerEntry(t testing.TB, c customer.Customer) feed.Entry {
	t.Helper()
	return feed.Entry{ID: c.ID, Version: c.Version, Entity: rawJSON(t, c)}
}

func deletedCustomer(n int, version int64) feed.Entry {
	return feed.Entry{ID: customerID(n), Version: version, Deleted: true}
}

func rawJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A bench is an outbox with a database and a mail sink of its own.
type bench struct {
	*outbox
	sink *mailsink.Sink
	addr string // of the mail server
	past int64
}

func newBench(t *testing.T, options ...func(*mailsink.Sink)) *bench {
	t.Helper()
	sink := new(mailsink.Sink)
	for _, option := range options {
		option(sink)
	}
	set := &settings{Settings: smtp.Settings{From: smtp.Sender{Name: "Edison Cars", Address: "orders@edison-cars.example"}}, TextAge: service.Age(90 * 24 * time.Hour)}
	b := &bench{outbox: newOutbox(set), sink: sink}
	b.current.Begin()
	b.db = pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("mailer"))
	for _, feed := range b.current.Feeds {
		b.polled(t, feed)
	}
	b.mailTo(t, serve(t, sink))
	t.Cleanup(func() {
		pgtest.WantRowCount(t, b.db, "mail", `case when state = 'pending' and not exists (select from customers c where c.id = customer_id) then 'waiting' else state end`, "uncertain")
	})
	return b
}

// polled says that this process has read the feed to its end.
func (b *bench) polled(t *testing.T, feed string) {
	t.Helper()
	at := time.Now().UTC().Truncate(time.Millisecond)
	b.lastPolled(t, feed, at)
	b.current.Polled(feed, at)
}

// lastPolled lets the database say when the feed was last read to its end, as after the restore of a dump.
func (b *bench) lastPolled(t *testing.T, feed string, at time.Time) {
	t.Helper()
	exec(t, b.db, `
		insert into subscription (service, feed, last_success_at) values ('mailer', $1, $2)
		on conflict (service, feed) do update set last_success_at = excluded.last_success_at`, feed, at)
}

// mailTo sends from now on by the server at addr.
func (b *bench) mailTo(t *testing.T, addr string) {
	t.Helper()
	b.addr = addr
	if err := b.set.Server.UnmarshalText([]byte("smtp://" + addr)); err != nil {
		t.Fatal(err)
	}
}

// serve returns the address of a sink.
func serve(t *testing.T, sink *mailsink.Sink) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sink.Serve(ctx, ln, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// orders applies a page of the orders feed.
func (b *bench) orders(t testing.TB, entries ...feed.Entry) {
	t.Helper()
	b.apply(t, Service().Feeds[0], entries)
}

// customers applies a page of the customers feed.
func (b *bench) customers(t testing.TB, entries ...feed.Entry) {
	t.Helper()
	b.apply(t, Service().Feeds[1], entries)
}

func (b *bench) apply(t testing.TB, f subscribe.Feed, entries []feed.Entry) {
	t.Helper()
	err := pgx.BeginFunc(context.Background(), b.db, func(tx pgx.Tx) error {
		newer, err := f.Newer(context.Background(), tx, (&feed.Page{Entries: entries}).Latest(nil))
		if err != nil {
			return err
		}
		batch := subscribe.NewBatch(newer)
		batch.Past = b.past
		return f.Apply(context.Background(), tx, batch)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// mustWork does what is due, whenever it is.
func (b *bench) mustWork(t testing.TB) {
	t.Helper()
	b.hurry(t)
	if err := b.work(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// hurry makes mails due that wait for their next try, and makes the processes that were sending look long gone.
func (b *bench) hurry(t testing.TB) {
	t.Helper()
	b.outage.mu.Lock()
	b.outage.next = time.Time{}
	b.outage.mu.Unlock()
	exec(t, b.db, `update mail set due_at = now() - interval '1 s', sending_since = sending_since - interval '1 min'`)
}

func exec(t testing.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// mail returns the mail for order n.
func (b *bench) mail(t testing.TB, n int) shown {
	t.Helper()
	m, err := readMail(context.Background(), b.db, orderID(n).String())
	if err != nil {
		t.Fatalf("the mail for order %d: %v", n, err)
	}
	return m
}

// want fails the test unless the mail for order n is in this state, and so many copies of it have arrived.
func (b *bench) want(t testing.TB, n int, state string, arrived int) shown {
	t.Helper()
	m := b.mail(t, n)
	if got := len(arrivals(b.sink, n)); m.State != state || got != arrived {
		t.Errorf("the mail for order %d is %s and has arrived %d times, not %s and %d times: %+v", n, m.State, got, state, arrived, m)
	}
	return m
}

// arrivals are the mails for order n.
func arrivals(sink *mailsink.Sink, n int) (found []*mailsink.Mail) {
	for _, m := range sink.Mails() {
		if m.MessageID == messageID(orderID(n)) {
			found = append(found, m)
		}
	}
	return found
}

// eventually waits up to a minute for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// A proxy stands between a mailer and a mail server, and holds back a reply.
type proxy struct {
	addr string
	held chan struct{} // closed when the reply is held back

	mu    sync.Mutex
	stage string // "", "greeting", or the command whose reply is held back: "EHLO", "MAIL", "RCPT", "DATA", "end"
	cut   bool   // the connection instead
	conns []net.Conn
}

// newProxy passes on what is said between its clients and the server at to.
func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), held: make(chan struct{})}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			all.Go(func() { p.pass(client, server) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.drop()
		all.Wait()
	})
	return p
}

// at holds back, or cuts off instead, the next reply of that stage.
func (p *proxy) at(stage string, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage, p.cut, p.held = stage, cut, make(chan struct{})
}

// drop closes all connections.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// pass goes from reply to reply: this client never sends ahead.
func (p *proxy) pass(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	fromClient, fromServer := bufio.NewReader(client), bufio.NewReader(server)
	for stage := "greeting"; ; {
		var reply strings.Builder
		for {
			text, err := fromServer.ReadString('\n')
			if err != nil {
				return
			}
			if reply.WriteString(text); len(text) < 4 || text[3] != '-' {
				break
			}
		}
		p.mu.Lock()
		hold, cut, held := p.stage == stage, p.cut, p.held
		if hold {
			p.stage = ""
		}
		p.mu.Unlock()
		if hold {
			close(held)
			if !cut {
				_, _ = io.Copy(io.Discard, client) // until it is gone
			}
			return
		}
		if _, err := io.WriteString(client, reply.String()); err != nil {
			return
		}
		until := ""
		if stage == "DATA" && strings.HasPrefix(reply.String(), "354") {
			stage, until = "end", ".\r\n"
		}
		for {
			text, err := fromClient.ReadString('\n')
			if err != nil {
				return
			}
			if _, err := io.WriteString(server, text); err != nil {
				return
			}
			if until == "" {
				stage, _, _ = strings.Cut(strings.TrimSpace(text), " ")
				break
			}
			if text == until {
				break
			}
		}
	}
}
