package pgtest

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"
)

// WantRowCount checks that the rows of row_count about a table equal a new count of it. value and total are the
// expressions by which it is counted.
func WantRowCount(t rapid.TB, pool *pgxpool.Pool, relation, value, total string) {
	t.Helper()
	var kept, counted string // at one moment: others may write
	err := pool.QueryRow(context.Background(), fmt.Sprintf(`
		select (select coalesce(string_agg(format('%%s: %%s, %%s', value, rows, total), '; ' order by value), '')
		          from row_count where relation = '%[1]s' and (rows <> 0 or total <> 0)),
		       (select coalesce(string_agg(format('%%s: %%s, %%s', value, rows, total), '; ' order by value), '')
		          from (select value, count(*) as rows, sum(total) as total from (select %[2]s as value, %[3]s as total from %[1]s) as found
		                 where value is not null group by value) as counted)`, relation, value, total)).Scan(&kept, &counted)
	if err != nil {
		t.Fatal(err)
	}
	if kept != counted {
		t.Errorf("of %s is kept: %s; counted: %s", relation, kept, counted)
	}
}
