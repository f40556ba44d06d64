package publish

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// flushSize is the number of bytes of arguments after which a part of the packet is sent, for PostgreSQL to work on.
const flushSize = 8 << 10

// A packet is a sequence of statements that is being sent. PostgreSQL works on the first ones while the next are
// encoded. None takes effect before the end of the packet.
type packet struct {
	conn     *pgx.Conn
	pipeline *pgconn.Pipeline
	encoder  pgx.ExtendedQueryBuilder
	owners   []int // the index of each statement's change, or noOwner
	size     int   // bytes of arguments not yet sent
}

const noOwner = -1

func newPacket(ctx context.Context, conn *pgx.Conn) packet {
	return packet{conn: conn, pipeline: conn.PgConn().StartPipeline(ctx)}
}

// prepare prepares the statements that the connection does not know.
func prepare(ctx context.Context, conn *pgx.Conn, statements []statement) error {
	for _, s := range statements {
		if _, err := conn.Prepare(ctx, s.sql, s.sql); err != nil {
			return err
		}
	}
	return nil
}

// add adds a prepared statement.
func (p *packet) add(ctx context.Context, s statement, owner int) error {
	description, err := p.conn.Prepare(ctx, s.sql, s.sql)
	if err == nil {
		err = p.encoder.Build(p.conn.TypeMap(), description, s.args)
		if err != nil {
			err = unencodable(err)
		}
		if err != nil && owner == noOwner {
			err = fmt.Errorf("%w: %w", errStale, err)
		}
	}
	if err != nil {
		return blame(owner, final{err})
	}
	p.pipeline.SendQueryStatement(description, p.encoder.ParamValues, p.encoder.ParamFormats, nil)
	p.owners = append(p.owners, owner)
	for _, v := range p.encoder.ParamValues {
		p.size += len(v)
	}
	if p.size < flushSize || owner == noOwner {
		return nil
	}
	p.size = 0
	return p.pipeline.Flush()
}

// unencodable keeps the part of pgx's error that names the argument, and drops the rest, which quotes the value.
func unencodable(err error) error {
	text, _, _ := strings.Cut(err.Error(), ":")
	return fmt.Errorf("an argument is not of the type that its statement takes: %s", text)
}

// exec adds a statement of the log's own that has no arguments and no results.
func (p *packet) exec(sql string) {
	p.pipeline.SendQueryParams(sql, nil, nil, nil, nil)
	p.owners = append(p.owners, noOwner)
}

// send sends the rest of the packet and reads all answers.
func (p *packet) send() error {
	err := p.pipeline.Sync()
	if err == nil {
		err = p.results()
	}
	if err != nil {
		_ = p.pipeline.Close()
	}
	return err
}

// sendLast sends the last, prepared statements of the open transaction together with its end.
func sendLast(ctx context.Context, conn *pgx.Conn, last []statement) error {
	p := newPacket(ctx, conn)
	p.exec("set local lock_timeout = '" + lockTimeout + "'")
	for _, s := range last {
		if err := p.add(ctx, s, noOwner); err != nil {
			_ = p.pipeline.Close()
			return err
		}
	}
	p.exec("commit")
	return p.send()
}

// results reads the answers and ends the packet.
func (p *packet) results() error {
	for _, owner := range p.owners {
		if err := result(p.pipeline); err != nil {
			return blame(owner, err)
		}
	}
	return p.pipeline.Close()
}

// blame returns the error of a change's statement.
func blame(owner int, err error) error {
	if owner == noOwner || connectionLost(err) || isCode(err, "40P01") {
		return err
	}
	return &changeError{owner, err}
}

// result reads the answer to one statement.
func result(pipeline *pgconn.Pipeline) error {
	answer, err := pipeline.GetResults()
	if reader, ok := answer.(*pgconn.ResultReader); ok {
		_, err = reader.Close()
	}
	return entryError(err)
}
