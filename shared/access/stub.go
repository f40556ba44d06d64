package access

import (
	"context"
	"log/slog"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"
)

type Mode string
type Settings struct {
	Access Mode   `env:"ACCESS" help:"x"`
	Tokens string `env:"TOKENS" help:"x"`
}
type Options struct {
	Service, Title, PublicURL string
	Pool                      *pgxpool.Pool
	Logger                    *slog.Logger
}
type Access struct{}

func New(Settings, Options) (*Access, error)   { return &Access{}, nil }
func (a *Access) Run(context.Context)          {}
func (a *Access) Identify() gin.HandlerFunc    { return func(*gin.Context) {} }
func (a *Access) Reader() gin.HandlerFunc      { return func(*gin.Context) {} }
func (a *Access) Operator() gin.HandlerFunc    { return func(*gin.Context) {} }
func (a *Access) Route(gin.IRoutes)            {}
func (a *Access) Open() bool                   { return true }

const Open Mode = "open"
