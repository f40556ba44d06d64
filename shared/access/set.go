package access

import "github.com/gin-gonic/gin"

// Set lets [Of] find the identity of a request.
func Set(c *gin.Context, id Identity) { c.Set(identityKey{}, id) }
