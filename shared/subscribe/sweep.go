package subscribe

import (
	"context"
	"time"
)

const (
	sweepInterval = time.Minute // between two looks for records that are too old
	sweptAtOnce   = 1000        // rows that are removed in one transaction
)

// A sweeper removes records that are older than Options.RecordAge.
type sweeper struct{ *Subscriber }

// run sweeps until ctx ends.
func (s *sweeper) run(ctx context.Context) {
	for failing := false; ; {
		err := s.sweep(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			s.options.Logger.WarnContext(ctx, "removing old records failed", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepInterval):
		}
	}
}

// sweep removes what is old by the clocks of the database and of this machine: polls, and what was rejected and what
// resyncs have read of feeds that the subscriber does not have any more. If it has one again, a resync begins, or the one
// that was under way goes on with all that it has read. One of the lost end would not read what was rejected again, so
// it begins as one of the whole feed.
func (s *sweeper) sweep(ctx context.Context) error {
	feeds := []string{}
	for _, p := range s.pollers {
		feeds = append(feeds, p.Name)
	}
	now, age := time.Now(), s.options.RecordAge
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`delete from poll where id = any(array(
			select id from poll where service = $1 and started_at < least(now(), $2) - $3::interval limit $4))`,
			[]any{s.options.Name, now, age, sweptAtOnce}},
		{`with begun as (
			update subscription set resync_cursor = '0', snapshot = null, compacted = null, lost_after = null, lost_since = null
			 where service = $1 and resync_since < least(now(), $2) - $3::interval and (resync_cursor <> '0' or snapshot is not null) and feed <> all($4)
			returning service, feed)
			delete from resynced_entity e using begun b where (e.service, e.feed) = (b.service, b.feed)`,
			[]any{s.options.Name, now, age, feeds}},
		{`with old as (
			delete from rejected_entry where ctid = any(array(
			select ctid from rejected_entry where service = $1 and rejected_at < least(now(), $2) - $3::interval and feed <> all($5) limit $4))
			returning feed), begun as (
			update subscription set resync_cursor = '0', snapshot = null, compacted = null, resync_history = '0', resync_since = now(),
			       lost_after = null, lost_since = null,
			       resync_reason = 'What was rejected while this process had the feed before is not kept any more.'
			 where service = $1 and feed in (select feed from old) and (resync_cursor is null or ` + currentLost + ` is not null)
			returning service, feed), noted as (
			delete from resynced_entity e using begun b where (e.service, e.feed) = (b.service, b.feed))
			select from old`,
			[]any{s.options.Name, now, age, sweptAtOnce, feeds}},
	} {
		for n := int64(sweptAtOnce); n == sweptAtOnce; {
			limited, cancel := context.WithTimeout(ctx, dbTimeout)
			done, err := s.pool.Exec(limited, statement.sql, statement.args...)
			cancel()
			if err != nil {
				return err
			}
			n = done.RowsAffected()
		}
	}
	return nil
}
