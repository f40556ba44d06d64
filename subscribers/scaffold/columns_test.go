package scaffold

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// A column takes all values that its member has, whatever they are.
func TestColumns(t *testing.T) {
	t.Parallel()
	for entities, want := range map[string]string{
		`{"a": 1} {"a": 2.5}`:                                       "a numeric A",
		`{"a": 1e3} {"a": 9223372036854775808}`:                     "a numeric A",
		`{"a": "x"} {"a": 1}`:                                       "a jsonb A",
		`{"a": null} {"a": true} {"b": {}}`:                         "a boolean A, b jsonb B",
		`{"a": "2026-11-23T12:00:00Z"} {"a": "soon"}`:               "a text A",
		`{"a": "2026-11-23"}`:                                       "a text A",
		`{"a": "01a20846-44a9-7e64-b2ad-57974371e065"} {"a": null}`: "a uuid A",
		`{"a": "01a2084644a97e64b2ad57974371e065"}`:                 "a text A",
		`{"id": 1, "version": 2, "select": 3}`:                      "select bigint Select",
		`{"order_id": 1, "orderID": 2, "OrderID": 3, "ID": 4}`:      "order_id bigint OrderID, orderID bigint OrderID2, OrderID bigint OrderID3, ID bigint ID2",
		`{"_": 1, "_1": 2, "a\"b": 3, "a b": 4, "` + "`" + `": 5}`:  "_ bigint Member, _1 bigint Member1",
		`[1] {"a": 1}`: "a bigint A",
		`{"` + strings.Repeat("x", 64) + `": 1, "vat_url": ""}`: "vat_url text VATURL",
	} {
		var values []jsontext.Value
		for d := jsontext.NewDecoder(strings.NewReader(entities)); ; {
			v, err := d.ReadValue()
			if err != nil {
				break
			}
			values = append(values, v.Clone())
		}
		columns, _, err := columnsOf(values)
		var got []string
		for _, c := range columns {
			got = append(got, fmt.Sprintf("%s %s %s", c, c.Type, c.Field))
		}
		if text := strings.Join(got, ", "); err != nil || text != want {
			t.Errorf("%s: %s, %v; want %s", entities, text, err, want)
		}
	}
	if _, left, err := columnsOf([]jsontext.Value{[]byte(`{"é": 1}`)}); err == nil || len(left) != 1 {
		t.Errorf("%q, %v", left, err)
	}
}

// The addresses and tables of services do not clash.
func TestOfTheirOwn(t *testing.T) {
	t.Parallel()
	if addr := freeAddr([]string{"127.0.0.1:8099", "127.0.0.1:8090"}); addr != "127.0.0.1:8100" {
		t.Error(addr)
	}
	for feed, want := range map[string]name{"orders": "orders", "price-list": "price_list", "subscription": "subscription_copy"} {
		if got := tableOf(feed); got != want {
			t.Errorf("%s: %s", feed, got)
		}
	}
}
