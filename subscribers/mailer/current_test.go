package mailer

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Nothing is sent by a copy that a dump has brought back: somebody in it may have been erased since, or an order
// cancelled.
func TestNothingSentByAnOldCopy(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	for name, restored := range map[string]struct {
		since time.Duration // the last poll of the dump
		start bool
	}{
		"restored before the start": {24 * time.Hour, true}, "a dump of just before": {0, true}, "a dump by a clock that is ahead": {-time.Hour, true},
		"restored under a process that sends": {24 * time.Hour, false}, "under a process, by a clock that was ahead": {-time.Hour, false},
	} {
		for _, feed := range []string{order.Feed, customer.Feed} {
			t.Run(name+", "+feed, func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.mustWork(t)
				b.add(t, 1, email(1))
				if restored.start {
					b.current.Begin()
					for _, f := range b.current.Feeds {
						if f != feed {
							b.polled(t, f)
						}
					}
				}
				b.lastPolled(t, feed, time.Now().Add(-restored.since))
				b.mustWork(t)
				b.mustWork(t)
				b.want(t, 1, "pending", 0)
				if behind := b.current.Behind(); !slices.Equal(behind, []string{feed}) {
					t.Errorf("the page says %q", behind)
				}
				b.polled(t, feed)
				b.mustWork(t)
				b.want(t, 1, "sent", 1)
				if behind := b.current.Behind(); len(behind) > 0 {
					t.Errorf("the page says %q", behind)
				}
			})
		}
	}
	t.Run("restored while a mail goes out", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.mustWork(t)
		b.add(t, 1, email(1))
		due, err := b.due(t.Context())
		if err != nil || len(due) != 1 {
			t.Fatal(due, err)
		}
		for _, restore := range []string{`update subscription set last_success_at = now() - interval '1 day'`, `delete from subscription`} {
			exec(t, b.db, restore)
			if err := b.begin(t.Context(), due[0]); !errors.Is(err, errOutdated) {
				t.Errorf("%s: %v", restore, err)
			}
		}
	})
	t.Run("paused before the start", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.add(t, 1, email(1))
		b.current.Begin()
		exec(t, b.db, `insert into subscription_setting (service, feed, paused) values ('mailer', 'customers', true), ('mailer', 'orders', true)`)
		b.mustWork(t)
		b.want(t, 1, "sent", 1)
	})
	t.Run("tables restored alone", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.add(t, 1, email(1))
		exec(t, b.db, `insert into erased_entity (service, feed, id) values ('mailer', 'customers', $1)`, customerID(1))
		b.customers(t, customerEntry(t, aCustomer(2, 1)))
		b.orders(t, orderEntry(t, 2, 2, 1, order.Placed))
		b.mustWork(t)
		b.want(t, 1, "pending", 0)
		b.want(t, 2, "sent", 1)
	})
}
