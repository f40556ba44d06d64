// Package access decides what a request may do: it checks the Host, tokens, sessions and the address of the client.
package access

import "github.com/gin-gonic/gin"

// A Role is what an identity may do. Each role includes the ones before it.
type Role int

// The roles.
const (
	Nobody   Role = iota // no token and no session: health, storefront, sign-up
	Reader               // feeds, by grant, and metrics
	Operator             // everything that shows people or changes something, but for what belongs to a buyer
)

// An Identity is as whom a request was sent.
type Identity struct {
	Name string // of the token; "" for Nobody and for open access
	Role Role
}

// Of returns the identity of a request, from its token, its session or open access.
func Of(c *gin.Context) Identity {
	id, _ := c.Get(identityKey{})
	found, _ := id.(Identity)
	return found
}

type identityKey struct{}
