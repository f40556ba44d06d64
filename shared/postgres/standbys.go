package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
)

// standbys returns a pool for each host of the ReadURL. It connects to none: a standby may be down.
func standbys(ctx context.Context, cfg Config, schemas []string) (pools []*pgxpool.Pool, err error) {
	if cfg.ReadURL == "" {
		return nil, nil
	}
	all, err := parseURL(cfg.ReadURL, cfg.Name, schemas)
	if err != nil {
		return nil, fmt.Errorf("standbys: %w", err)
	}
	hosts := hostsOf(all.ConnConfig)
	if len(hosts) == 0 {
		hosts = []*pgx.ConnConfig{all.ConnConfig.Copy()}
	}
	for _, host := range hosts {
		config := all.Copy()
		config.ConnConfig = host
		config.ConnConfig.ValidateConnect = nil
		// Any session is used for as long as it works: the reader checks what it sees there.
		config.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
			return conn.PgConn().CustomData()[spoiled] == nil, nil
		}
		pool, err := pgxpool.NewWithConfig(ctx, migrate.Within(config, cfg.Schema))
		if err != nil {
			for _, p := range pools {
				p.Close()
			}
			return nil, err
		}
		pools = append(pools, pool)
	}
	return pools, nil
}
