package customers

import (
	"fmt"
	"net/http"
	"net/mail"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/web"
)

type account struct {
	Name    string           `json:"name"`
	Email   string           `json:"email"`
	Address customer.Address `json:"address"`
}

func accountOf(p *customer.Customer) account { return account{p.Name, p.Email, p.Address} }

func readForm(form url.Values) account {
	return account{form.Get("name"), form.Get("email"), customer.Address{
		Street: form.Get("street"), PostalCode: form.Get("postal_code"), City: form.Get("city"), Country: form.Get("country"),
	}}
}

// normalize brings equal accounts into one form.
func (a *account) normalize() {
	for _, f := range a.fields() {
		*f.value = strings.TrimSpace(*f.value)
	}
	a.Address.Country = strings.ToUpper(a.Address.Country)
}

const maxEmail = 254 // characters: RFC 5321 section 4.5.3.1.3, less the brackets

type field struct {
	name         string // in JSON; a form's field has the part after the last dot
	label        string
	autocomplete string // the token of the HTML attribute
	value        *string
	max          int // characters
}

func (a *account) fields() []field {
	return []field{
		{"name", "Name", "name", &a.Name, 200},
		{"email", "E-mail", "email", &a.Email, maxEmail},
		{"address.street", "Street and number", "address-line1", &a.Address.Street, 200},
		{"address.postal_code", "Postal code", "postal-code", &a.Address.PostalCode, 20},
		{"address.city", "City", "address-level2", &a.Address.City, 100},
		{"address.country", "Country", "country", &a.Address.Country, 2},
	}
}

func (a *account) check() error {
	var wrong []web.FieldError
	for _, f := range a.fields() {
		var detail string
		checkText := customer.CheckText
		if f.value == &a.Name {
			checkText = customer.CheckName // mails contain it
		}
		n, err := utf8.RuneCountInString(*f.value), checkText(*f.value)
		switch {
		case f.value == &a.Address.Country && !isCountry(*f.value):
			detail = "must be a two-letter country code (ISO 3166-1) such as DE"
		case n == 0:
			detail = "must not be empty"
		case n > f.max:
			detail = fmt.Sprintf("must have at most %d characters", f.max)
		case err != nil:
			detail = err.Error()
		case f.value == &a.Email && !isAddrSpec(*f.value):
			detail = "must be an e-mail address such as ada@example.com"
		default:
			continue
		}
		wrong = append(wrong, web.FieldError{Field: f.name, Detail: detail})
	}
	if len(wrong) == 0 {
		return nil
	}
	return &web.Problem{Status: http.StatusUnprocessableEntity, Detail: "Something is missing or wrong. Nothing was saved.", Errors: wrong}
}

// isAddrSpec reports whether s is an address (RFC 5322 section 3.4.1) without a display name and brackets, and short
// enough to send to.
func isAddrSpec(s string) bool {
	if utf8.RuneCountInString(s) > maxEmail {
		return false
	}
	parsed, err := mail.ParseAddress(s)
	return err == nil && parsed.Name == "" && parsed.Address == s
}
