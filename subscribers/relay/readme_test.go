package relay

import (
	"bytes"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// The consumer of this folder's README.md, built as it stands there, ends with the source's rows, though it and the
// relay are killed in the middle.
func TestReadmeConsumer(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s, db, garage := newSource(t, "orders"), newDatabase(t), pgtest.New(t)
	exec1(t, garage, `create table ordered (external_id uuid primary key, version bigint not null, body jsonb not null)`)
	program := readmeConsumer(t)
	consume := func() *exec.Cmd {
		cmd := exec.Command(program)
		cmd.Env = []string{"DATABASE_URL=" + pgtest.URL(garage), "AMQP_URL=" + b.URL}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			if _ = cmd.Wait(); said.Len() > 0 {
				t.Error(said.String())
			}
		})
		return cmd
	}
	rows := func(sql string) (n int) {
		t.Helper()
		if err := garage.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	conn, err := amqp.Dial(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	consumer := consume()
	eventually(t, "there is a queue", func() bool {
		ch, err := conn.Channel() // which the next line closes where there is none
		if err == nil {
			_, err = ch.QueueDeclarePassive("garage", true, false, false, false, nil)
		}
		return err == nil
	})

	relay := s.relay(t, db, b.URL, map[string]string{"PAGE_SIZE": "7"})
	s.put(t, 1, 200, 10)
	eventually(t, "some have arrived", func() bool { return rows(`select count(*) from ordered`) >= 20 })
	if err := consumer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	relay.Kill()
	s.put(t, 10, 40, 10)
	s.remove(t, 12)
	s.relay(t, db, b.URL, map[string]string{"PAGE_SIZE": "7"})
	consume()
	s.put(t, 10, 11, 10)

	want := map[uuid.UUID]publish.Entry{}
	sum := 0
	for _, e := range s.history {
		sum += int(e.Version - want[e.ID].Version)
		want[e.ID] = e
	}
	eventually(t, "all versions have arrived", func() bool { return rows(`select coalesce(sum(version), 0) from ordered`) == sum })
	if n := rows(`select count(*) from ordered`); n != len(want) {
		t.Errorf("%d rows of %d orders", n, len(want))
	}
	for id, e := range want {
		text := string(e.Payload)
		if e.Payload == nil {
			text = fmt.Sprintf(`{"version": %d, "deleted": true}`, e.Version)
		}
		var same bool
		err := garage.QueryRow(t.Context(), `select body = $2::jsonb || jsonb_build_object('external_id', $1::text) and version = $3 from ordered where external_id = $1::uuid`,
			id.String(), text, e.Version).Scan(&same)
		if err != nil || !same {
			t.Errorf("the row of version %d of %s is another one, %v", e.Version, id, err)
		}
	}
}

func readmeConsumer(t *testing.T) (program string) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("README.md shows no consumer")
	}
	pgtest.Slow(t, "a build")
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "garage")
	if err := os.WriteFile(source, block[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if formatted, err := format.Source(block[1]); err != nil || !bytes.Equal(formatted, block[1]) {
		t.Errorf("it is not formatted: %v\n%s", err, formatted)
	}
	return program
}
