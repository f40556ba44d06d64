package postgres_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A uuid.UUID is an argument wherever a UUID, or its text, is.
func TestUUID(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Volatile(postgres.Config{Dir: pgtest.Dir(t), Name: "uuids"}))
	id := uuid.New()
	var same, none bool
	err := db.QueryRow(t.Context(), `select $1::uuid::text = $2::text and array[$1] = $3::uuid[], $4::uuid is null and $5::uuid is null`,
		id, id, []uuid.UUID{id}, (*uuid.UUID)(nil), uuid.NullUUID{}).Scan(&same, &none)
	if err != nil || !same || !none {
		t.Errorf("the same: %t, null: %t, %v", same, none, err)
	}
	for n := range 3 {
		var ids, got []uuid.UUID
		for range n {
			ids = append(ids, uuid.New())
		}
		if ids == nil {
			ids = []uuid.UUID{}
		}
		if err := db.QueryRow(t.Context(), `select $1::uuid[] || '{}'`, ids).Scan(&got); err != nil || !slices.Equal(got, ids) {
			t.Errorf("%v came back as %v, %v", ids, got, err)
		}
	}
	if err := db.QueryRow(t.Context(), `select $1::uuid[] is null and $2 = $3::uuid[]::text`, []uuid.UUID(nil), "{"+id.String()+"}", []uuid.UUID{id}).Scan(&none); err != nil || !none {
		t.Errorf("null: %t, %v", none, err)
	}
}
