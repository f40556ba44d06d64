// Package sql holds the schema: numbered goose migrations, a folder per database, and one each for what every source
// (publish), every subscriber (subscribe) and every service that operators log in to (access) keeps in its database.
package sql

import (
	"embed"
	"io/fs"

	"github.com/edison-cars/data-feeds/shared/migrate"
)

//go:embed */*.sql
var files embed.FS

// Migrations returns the migrations in the folder name. It panics when there is no such folder.
func Migrations(name string) migrate.Set {
	sub, err := fs.Sub(files, name)
	if err != nil {
		panic(err)
	}
	if found, _ := fs.Glob(sub, "*.sql"); len(found) == 0 {
		panic("no migrations in sql/" + name)
	}
	return migrate.Set{Name: name, FS: sub}
}
