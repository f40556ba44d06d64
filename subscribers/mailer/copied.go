package mailer

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/customer"
)

// copied tells whether the copy of customers can be sent by: it was brought up to date since this process sends, and the database was
// not taken back in the meantime, as by the restore of a dump. Else somebody in it may have been erased. While the source is down
// later, or the copy is paused, it can.
type copied struct {
	last    time.Time // when the copy was up to date, as it was looked at last; zero: it was not
	current bool
}

// startSlack is how long before the first look a copy may have been brought up to date by this process.
const startSlack = 10 * time.Second

// look is called by one goroutine at a time.
func (c *copied) look(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (current bool, err error) {
	if c.last.IsZero() {
		c.last = time.Now().Add(-startSlack)
	}
	var success *time.Time // of a poll
	var paused bool
	err = db.QueryRow(ctx, `
		select last_success_at, coalesce(paused, false) from subscription left join subscription_setting using (service, feed)
		 where service = $1 and feed = $2`, name, customer.Feed).Scan(&success, &paused)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // a restore is under way
		return false, nil
	case err != nil:
		return false, err
	case success == nil:
		return false, nil
	case success.Before(c.last):
		c.current, c.last = false, *success
	case success.After(c.last):
		c.current, c.last = true, *success
	}
	return c.current || paused, nil
}
