package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/customer"
)

const (
	moveOneIn   = 20               // purchases
	leaveOneIn  = 100              // purchases
	meanSettled = 20 * time.Second // from a purchase to what follows from it
	signUpTime  = 3 * time.Second  // who waits longer buys as a guest
)

// person is one of the shoppers.
type person struct {
	account account
	guest   uuid.UUID // buys while there is no account; the same at each start
	id      uuid.UUID // of the account, Nil if there is none
}

type account struct {
	Name    string           `json:"name"`
	Email   string           `json:"email"`
	Address customer.Address `json:"address"`
}

// people are all invented.
func people() (all []*person) {
	for n, line := range strings.Split(directory, "\n") {
		f := strings.Split(line, ", ")
		all = append(all, &person{
			guest: uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "shopper %d", n)),
			account: account{f[0], strings.ToLower(strings.ReplaceAll(f[0], " ", ".")) + "@example.com",
				customer.Address{Street: f[1], PostalCode: f[2], City: f[3], Country: f[4]}},
		})
	}
	return all
}

const directory = `Hanna Lindqvist, Storgatan 14, 111 23, Stockholm, SE
Oskar Nyberg, Ekvägen 3, 211 46, Malmö, SE
Ingrid Solheim, Fjordveien 27, 5003, Bergen, NO
Lars Hovland, Bakkegata 8, 0182, Oslo, NO
Mette Damgaard, Strandvejen 61, 8000, Aarhus, DK
Jens Kirkegaard, Nørregade 12, 1165, København, DK
Aino Koskela, Puistokatu 5, 00140, Helsinki, FI
Eero Vainio, Kirkkokatu 19, 90100, Oulu, FI
Femke de Wit, Lindengracht 88, 1015 KJ, Amsterdam, NL
Joris Hoekstra, Havenstraat 2, 3024 SE, Rotterdam, NL
Elise Vermeulen, Kerkstraat 31, 9000, Gent, BE
Thomas Claes, Rue du Moulin 7, 4000, Liège, BE
Camille Aubert, 12 rue des Tilleuls, 69003, Lyon, FR
Julien Marchand, 45 avenue du Port, 33000, Bordeaux, FR
Manon Lefort, 3 place du Vieux Puits, 35000, Rennes, FR
Antoine Besson, 28 rue Basse, 38000, Grenoble, FR
Greta Sommerfeld, Ahornweg 9, 50667, Köln, DE
Jonas Brandt, Hafenstraße 110, 20459, Hamburg, DE
Lea Hofmeister, Gartenstraße 4, 79098, Freiburg, DE
Emil Wachter, Am Mühlbach 17, 04109, Leipzig, DE
Marlene Kessler, Rosenweg 22, 80331, München, DE
Ruben Stark, Turmgasse 1, 93047, Regensburg, DE
Valerie Hochleitner, Lindengasse 36, 1070, Wien, AT
Matthias Gruber, Bergstraße 5, 6020, Innsbruck, AT
Nora Zumstein, Seestrasse 48, 8002, Zürich, CH
Luca Bernasconi, Via al Lago 6, 6900, Lugano, CH
Chiara Fontana, Via dei Mulini 15, 40121, Bologna, IT
Matteo Ferraris, Corso Vecchio 73, 10121, Torino, IT
Giulia Sartori, Calle Lunga 9, 30121, Venezia, IT
Elena Robledo, Calle del Olmo 20, 28012, Madrid, ES
Pablo Iriarte, Paseo del Faro 11, 20002, San Sebastián, ES
Nuria Casals, Carrer de la Font 34, 08001, Barcelona, ES
Beatriz Moura, Rua das Oliveiras 52, 4050-448, Porto, PT
Tiago Falcato, Travessa do Sol 3, 1100-573, Lisboa, PT
Zofia Malinowska, ul. Lipowa 18, 31-001, Kraków, PL
Tomasz Wilk, ul. Morska 40, 80-001, Gdańsk, PL
Tereza Havlova, Na Kopci 6, 602 00, Brno, CZ
Aoife Brannigan, 7 Harbour Row, T12 X70A, Cork, IE
Cormac Devlin, 19 Mill Lane, D08 E2P1, Dublin, IE
Petra Novak, Cvetna ulica 13, 1000, Ljubljana, SI`

// customer gives the id by which a person buys: that of the account, which is made where there is none. Without the customers app
// people buy as guests.
func (s *shoppers) customer(ctx context.Context, p *person) uuid.UUID {
	s.mu.Lock()
	id := p.id
	s.mu.Unlock()
	switch {
	case id != uuid.Nil:
		return id
	case s.accounts == "":
		return p.guest
	}
	var signedUp customer.Customer
	// The key is the same at each start: who has an account gets no second one.
	if s.account(ctx, http.MethodPost, "", p.guest.String(), p.account, &signedUp) != http.StatusCreated {
		return p.guest
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.id = signedUp.ID
	return p.id
}

// live is what follows from a purchase: now and then somebody moves house or deletes the account.
func (s *shoppers) live(ctx context.Context, p *person, id uuid.UUID) {
	moves, leaves := rand.N(moveOneIn) == 0, rand.N(leaveOneIn) == 0
	if id == p.guest || !moves && !leaves || !wait(ctx, time.Duration(rand.ExpFloat64()*float64(meanSettled))) {
		return
	}
	var status int
	if leaves {
		status = s.account(ctx, http.MethodDelete, "/"+id.String(), "", nil, nil)
	} else {
		moved := p.account
		moved.Address = s.people[rand.N(len(s.people))].account.Address
		status = s.account(ctx, http.MethodPut, "/"+id.String(), "", moved, nil)
	}
	if gone := status == http.StatusNoContent || status == http.StatusGone || status == http.StatusNotFound; gone {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.id == id {
			p.id = uuid.Nil
		}
	}
}

// account asks the customers app once; 0: it does not answer.
func (s *shoppers) account(ctx context.Context, method, path, key string, what, into any) (status int) {
	var body []byte
	if what != nil {
		var err error
		if body, err = json.Marshal(what); err != nil {
			s.out.line(shoppersName, "%v", err)
			return 0
		}
	}
	began := time.Now()
	asking, cancel := context.WithTimeout(ctx, signUpTime)
	defer cancel()
	status, answer, err := s.once(asking, method, s.accounts+"/customers"+path, key, body)
	if ctx.Err() != nil {
		return 0
	}
	away := err != nil || status >= 500 || status == http.StatusTooManyRequests
	s.tell(&s.customersAway, began, away, status, err)
	switch {
	case away:
		return 0
	case status >= 300 && status != http.StatusGone:
		s.tellRefusal(method+" /customers"+path, status, answer)
	case into != nil && json.Unmarshal(answer, into) != nil:
		return 0
	}
	return status
}
