package shipping

import (
	"context"
	"errors"
	"fmt"
	"image/color"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/boombuler/barcode/qr"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/web"
)

type parcel struct {
	ID         uuid.UUID       `json:"id"`
	Version    int64           `json:"version"`
	Status     shipment.Status `json:"status"`
	OrderID    uuid.UUID       `json:"order_id"`
	CustomerID uuid.UUID       `json:"customer_id"`
	Car        int             `json:"car"` // 1, 2, 3 ... within the order
	Model      string          `json:"model"`
	Name       *string         `json:"name"` // with the address; null in states without one
	Street     *string         `json:"street"`
	PostalCode *string         `json:"postal_code"`
	City       *string         `json:"city"`
	Country    *string         `json:"country"`
	ReadyAt    *time.Time      `json:"ready_at"`
	ShippedAt  *time.Time      `json:"shipped_at"`
	UpdatedAt  time.Time       `json:"updated_at"`
	Cancelled  bool            `json:"order_cancelled"`
	WaitsFor   []string        `json:"waits_for"` // while it is waiting: car, customer or both
}

const parcels = `
	select id, version, status, order_id, customer_id, car, model, name, street, postal_code, city, country, ready_at, shipped_at, updated_at,
	       exists (select from cancelled_order o where o.id = order_id),
	       case when status <> 'waiting' then '{}' else array_remove(array[
			case when not exists (select from build b where b.order_id = shipment.order_id and b.car = shipment.car and b.status = 'finished') then 'car' end,
			case when not exists (select from customer c where c.id = customer_id) then 'customer' end], null) end
	  from shipment `

// Short and ShortOrder return the ends of ids, enough to refer to them.
func (p *parcel) Short() string      { return web.Short(p.ID) }
func (p *parcel) ShortOrder() string { return web.Short(p.OrderID) }

func (p *parcel) ModelName() string { return order.CarName(p.Model) }

// Lengths of a page of shipments. The feed has all of them.
const (
	pageLimit = 50
	apiLimit  = 1000
)

var statuses = []shipment.Status{shipment.Waiting, shipment.Ready, shipment.Shipped, shipment.Returned, shipment.Stopped}

// list returns a page of the shipments, the last changed first, at most length of them. The request may set limit=N,
// status=STATUS, and order_id=UUID. A shipment that changes moves to the first page.
func list(r *http.Request, db *pgxpool.Pool, length int64) (found web.List[parcel], err error) {
	l, err := web.NewListing(r, length, apiLimit, new(time.Time), new(uuid.UUID))
	if err != nil {
		return found, err
	}
	asked := r.URL.Query()
	if status := shipment.Status(asked.Get("status")); slices.Contains(statuses, status) {
		l.Where("status = ?", status)
	} else if status != "" {
		return found, web.Errorf(http.StatusBadRequest, "The parameter status takes waiting, ready, shipped, returned or stopped.")
	}
	of, err := web.QueryUUID(asked, "order_id")
	if err != nil {
		return found, err
	}
	if of != nil {
		l.Where("order_id = ?", of)
	}
	l.Find("shipment", "id", []string{"id", "order_id"}, "customer_id")
	end, args := l.SQL("updated_at", "id")
	rows, _ := db.Query(r.Context(), parcels+end, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[parcel])
	return web.NewList(l, all, func(p parcel) []any { return []any{p.UpdatedAt, p.ID} }), err
}

type shipmentList struct {
	web.List[parcel]
	Status   string
	Statuses []shipment.Status
}

type stage struct {
	Status  shipment.Status
	Count   int64
	Parcels []parcel
}

const stageLimit = 25

type shown struct {
	Behind []string // feeds that must be current before a car leaves; only in the process that polls
	Stages []stage
}

// overview returns the stages in the order that a shipment passes them.
func overview(ctx context.Context, db *pgxpool.Pool) (stages []stage, err error) {
	for _, status := range statuses {
		s := stage{Status: status}
		err := db.QueryRow(ctx, `select coalesce(max(rows), 0) from row_count where relation = 'shipment' and value = $1`, status).Scan(&s.Count)
		if err != nil {
			return nil, err
		}
		rows, _ := db.Query(ctx, parcels+`where status = $1 order by updated_at desc, id desc limit $2`, status, stageLimit)
		if s.Parcels, err = pgx.CollectRows(rows, pgx.RowToStructByPos[parcel]); err != nil {
			return nil, err
		}
		stages = append(stages, s)
	}
	return stages, nil
}

type label struct {
	parcel
	Code code
}

var errNoShipment = web.Errorf(http.StatusNotFound, "There is no shipment with this id.")

func readLabel(r *http.Request, db *pgxpool.Pool) (*label, error) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return nil, errNoShipment
	}
	rows, _ := db.Query(r.Context(), parcels+`where id = $1`, id)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[parcel])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errNoShipment
	} else if err != nil {
		return nil, err
	}
	drawn, err := draw(p.ID.URN())
	return &label{p, drawn}, err
}

// recordReturn records that the car of the shipment is back, and returns the shipment with the path of its page.
// Recording it again changes nothing.
func recordReturn(r *http.Request, s *subscriber.Site) (any, string, error) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return nil, "", errNoShipment
	}
	if err := takeBack(r.Context(), s.Log, id); err != nil {
		return nil, "", fmt.Errorf("record the return of shipment %s: %w", id, err)
	}
	l, err := readLabel(r, s.DB)
	if err == nil && l.Status != shipment.Returned {
		err = web.Errorf(http.StatusConflict, "Only a car that has left, and whose order is cancelled, can be returned. This shipment is %s.", l.Status)
	}
	if err != nil {
		return nil, "", err
	}
	return l.parcel, "/shipments/" + id.String(), nil
}

// A code is a QR code as an SVG path, with one unit per module.
type code struct {
	Size int // including the quiet zone
	Path string
}

// quiet is the width of the empty zone around a code, in modules (ISO/IEC 18004 section 6.3.8).
const quiet = 4

func draw(text string) (code, error) {
	drawn, err := qr.Encode(text, qr.M, qr.Unicode)
	if err != nil {
		return code{}, err
	}
	var path strings.Builder
	size := drawn.Bounds().Dx()
	for y := range size {
		for x := range size {
			if drawn.At(x, y) == color.Black {
				path.WriteString("M" + strconv.Itoa(x+quiet) + " " + strconv.Itoa(y+quiet) + "h1v1h-1z")
			}
		}
	}
	return code{size + 2*quiet, path.String()}, nil
}
