package main

import (
	"context"
	"fmt"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres"
)

// replicate makes PostgreSQL copy the source's orders by itself: what is there now, if withData, and what comes. It returns when
// that has come so far; end ends it.
func (p *pair) replicate(ctx context.Context, db *postgres.DB, withData bool) (end func() error, err error) {
	if _, err := p.source.Exec(ctx, `create publication bench for table orders`); err != nil {
		return nil, err
	}
	end = func() error {
		_, err := db.Exec(ctx, `drop subscription if exists bench`)
		if err == nil {
			_, err = p.source.Exec(ctx, `drop publication bench`)
		}
		return err
	}
	if _, err := db.Exec(ctx, fmt.Sprintf(`create subscription bench connection '%s' publication bench with (copy_data = %t)`,
		p.source.Config().ConnString(), withData)); err != nil {
		return end, err
	}
	for {
		var copied bool // f: the copy is finished; s, r: and what happened meanwhile has come
		err := db.QueryRow(ctx, `select coalesce(bool_and(srsubstate in ('f', 's', 'r')), false) from pg_subscription_rel`).Scan(&copied)
		if err != nil || copied {
			return end, err
		}
		select {
		case <-ctx.Done():
			return end, context.Cause(ctx)
		case <-time.After(watchInterval):
		}
	}
}
