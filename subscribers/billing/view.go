package billing

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/web"
)

// The kinds of documents.
const (
	invoice    = "invoice"
	creditNote = "credit_note"
)

type document struct {
	Number     int64     `json:"number"` // 1, 2, 3 ..., shared by invoices and credit notes
	Kind       string    `json:"kind"`
	OrderID    uuid.UUID `json:"order_id"`
	CustomerID uuid.UUID `json:"customer_id"`
	Name       string    `json:"customer_name"`
	NetCents   int64     `json:"net_cents"`
	VATCents   int64     `json:"vat_cents"`
	TotalCents int64     `json:"total_cents"` // including VAT
	Currency   string    `json:"currency"`
	IssuedAt   time.Time `json:"issued_at"`

	Credits       *int64  `json:"credits"`        // the invoice of a credit note
	CreditedBy    []int64 `json:"credited_by"`    // the credit notes of an invoice
	CreditedCents int64   `json:"credited_cents"` // the sum of these
	Credited      bool    `json:"credited"`       // in full
}

// URL returns the path of the document's page.
func (d *document) URL() string { return documentURL(d.Kind, d.Number) }

func documentURL(kind string, number int64) string {
	if kind == creditNote {
		return "/credit-notes/" + shown(number)
	}
	return "/invoices/" + shown(number)
}

// Shown returns the number as documents show it.
func (d *document) Shown() string { return shown(d.Number) }

func shown(number int64) string { return fmt.Sprintf("%06d", number) }

const documentColumns = `
	d.number, d.kind, d.order_id, d.customer_id, d.name, d.total_cents - d.vat_cents, d.vat_cents, d.total_cents, d.currency, d.issued_at,
	d.credits, c.numbers, c.cents, d.kind = 'invoice' and s.invoice is null`

const documents = `
	  from document d
	  left join standing s on s.invoice = d.number
	 cross join lateral (
		select coalesce(array_agg(c.number order by c.number), '{}') as numbers, coalesce(sum(c.total_cents), 0)::bigint as cents
		  from document c where c.credits = d.number) as c `

// Limits of a page of documents.
const (
	pageLimit = 50
	apiLimit  = 1000
)

// listDocuments returns a page of the documents, newest first, at most length of them. The request may set limit=N,
// kind=KIND, and order_id=UUID.
func listDocuments(r *http.Request, db *pgxpool.Pool, length int64) (found web.List[document], err error) {
	l, err := web.NewListing(r, length, apiLimit, new(int64))
	if err != nil {
		return found, err
	}
	asked := r.URL.Query()
	if kind := asked.Get("kind"); kind == invoice || kind == creditNote {
		l.Where("d.kind = ?", kind)
	} else if kind != "" {
		return found, web.Errorf(http.StatusBadRequest, "The parameter kind takes invoice or credit_note.")
	}
	of, err := web.QueryUUID(asked, "order_id")
	if err != nil {
		return found, err
	}
	if of != nil {
		l.Where("d.order_id = ?", of)
	}
	if l.Number > 0 {
		l.Where("d.number = ?", l.Number)
	}
	l.Find("document", "number", []string{"order_id"})
	end, args := l.SQL("d.number")
	rows, _ := db.Query(r.Context(), `select `+documentColumns+documents+end, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[document])
	return web.NewList(l, all, func(d document) []any { return []any{d.Number} }), err
}

// A waitingOrder is an order whose customer is not known yet, or never will be because the account was deleted before.
type waitingOrder struct {
	ID              uuid.UUID `json:"id"`
	PlacedAt        time.Time `json:"placed_at"`
	TotalCents      int64     `json:"total_cents"`
	Currency        string    `json:"currency"`
	CustomerID      uuid.UUID `json:"customer_id"`
	CustomerDeleted bool      `json:"customer_deleted"`
}

type data struct {
	Invoices, CreditNotes, Waiting int64
	InvoicedCents, CreditedCents   int64
	Currency                       string
	Documents                      web.List[document]
	Kind                           string
	Filtered                       bool // the page is not the first of all documents
}

// StandingCents returns the sum of all invoices without a credit note.
func (d *data) StandingCents() int64 { return d.InvoicedCents - d.CreditedCents }

func overview(r *http.Request, db *pgxpool.Pool) (*data, error) {
	ctx, d := r.Context(), &data{Currency: "EUR", Kind: r.URL.Query().Get("kind"), Filtered: r.URL.RawQuery != ""}
	err := db.QueryRow(ctx, `
		select coalesce(sum(rows) filter (where value = $1), 0)::bigint, coalesce(sum(rows) filter (where value = $2), 0)::bigint,
		       coalesce(sum(total) filter (where value = $1), 0)::bigint, coalesce(sum(total) filter (where value = $2), 0)::bigint,
		       coalesce(sum(rows) filter (where relation = 'orders'), 0)::bigint
		  from row_count`, invoice, creditNote).Scan(&d.Invoices, &d.CreditNotes, &d.InvoicedCents, &d.CreditedCents, &d.Waiting)
	if err != nil {
		return nil, err
	}
	d.Documents, err = listDocuments(r, db, pageLimit)
	return d, err
}

// waitingOrders returns a page of them, the last placed first.
func waitingOrders(r *http.Request, db *pgxpool.Pool, length int64) (found web.List[waitingOrder], err error) {
	l, err := web.NewListing(r, length, apiLimit, new(time.Time), new(uuid.UUID))
	if err != nil {
		return found, err
	}
	l.Where("not isempty(missing)") // the condition of the partial index
	l.Find("orders", "id", []string{"id"})
	end, args := l.SQL("placed_at", "id")
	rows, _ := db.Query(r.Context(), `
		select id, placed_at, total_cents, currency, customer_id, exists (select from deleted_customer d where d.id = customer_id) from orders`+end, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[waitingOrder])
	return web.NewList(l, all, func(o waitingOrder) []any { return []any{o.PlacedAt, o.ID} }), err
}

type paper struct {
	document
	Reason, Street, PostalCode, City, Country string
	PlacedAt                                  time.Time
	VATPercent                                int
	Lines                                     []line
	Cancelled                                 bool  // the order is cancelled or withdrawn, and cars of the invoice are not credited
	Undecided, Left                           int64 // of these cars: shipping has not decided yet; have left
}

type line struct{ order.Line }

// Car returns the model's name, "Edison Volta" for volta.
func (l line) Car() string { return "Edison " + order.CarName(l.Model) }

// OptionNames returns the names of the options.
func (l line) OptionNames() string { return words(strings.Join(l.Options, ", ")) }

func words(code string) string { return strings.ReplaceAll(code, "_", " ") }

// Credit reports whether the document is a credit note.
func (p *paper) Credit() bool { return p.Kind == creditNote }

// Of returns the invoice of a credit note.
func (p *paper) Of() *document { return &document{Kind: invoice, Number: *p.Credits} }

// CreditNotes returns those of an invoice.
func (p *paper) CreditNotes() (notes []document) {
	for _, n := range p.CreditedBy {
		notes = append(notes, document{Kind: creditNote, Number: n})
	}
	return notes
}

// DueCents returns what is left of an invoice.
func (p *paper) DueCents() int64 { return p.TotalCents - p.CreditedCents }

func readDocument(r *http.Request, db *pgxpool.Pool, kind string) (*paper, error) {
	missing := web.Errorf(http.StatusNotFound, "There is no %s with this number.", words(kind))
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		return nil, missing
	}
	rows, _ := db.Query(r.Context(), `select `+documentColumns+`,
		d.reason, d.street, d.postal_code, d.city, d.country, d.placed_at, d.vat_percent, lines_of(d.lines, d.cars),
		s.invoice is not null and not exists (select from orders o where o.id = d.order_id and o.status = $3),
		coalesce((select sum(upper(r) - lower(r)) from unnest(s.cars) as r), 0)::bigint - left_cars, left_cars `+documents+`
		 cross join lateral (select count(*) from shipment out where out.order_id = d.order_id and out.status = $4 and s.cars @> out.car) as l (left_cars)
		 where d.number = $1 and d.kind = $2`, number, kind, order.Placed, shipment.Shipped)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[paper])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, missing
	}
	return p, err
}
