package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/customer"
)

const (
	moveOneIn   = 20               // purchases
	leaveOneIn  = 100              // purchases
	meanSettled = 20 * time.Second // from a purchase to its consequences
	signUpTime  = 3 * time.Second  // after this a person buys as a guest
)

type person struct {
	account account
	key     string // Idempotency-Key of the sign-up
	guest   credential
	member  credential // of the account; zero: none
}

// A credential is the id and token that an app's API returned.
type credential struct {
	ID    uuid.UUID `json:"id"` // of the account; Nil for a guest
	Token string    `json:"buyer_token"`
}

type account struct {
	Name    string           `json:"name"`
	Email   string           `json:"email"`
	Address customer.Address `json:"address"`
}

func people() (all []*person) {
	for line := range strings.Lines(peopleList) {
		f := strings.Split(strings.TrimSpace(line), ", ")
		all = append(all, &person{
			key: uuid.NewString(),
			account: account{f[0], strings.ToLower(strings.ReplaceAll(f[0], " ", ".")) + "@example.com",
				customer.Address{Street: f[1], PostalCode: f[2], City: f[3], Country: f[4]}},
		})
	}
	return all
}

// peopleList has a line for each of the people: name, street, postal code, city and country.
//
//go:embed people.txt
var peopleList string

// remember loads the accounts, so that a restart needs no new sign-ups.
func (s *shoppers) remember() {
	text, err := os.ReadFile(s.accountsFile)
	var members map[string]credential
	if err == nil {
		err = json.Unmarshal(text, &members)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.out.line(shoppersName, "everybody signs up again: %v", err)
	}
	for _, p := range s.people {
		p.member = members[p.account.Email]
	}
}

// note stores the accounts. Only this user may read the file.
func (s *shoppers) note(p *person, member credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.member = member
	members := map[string]credential{}
	for _, p := range s.people {
		if p.member.Token != "" {
			members[p.account.Email] = p.member
		}
	}
	text, err := json.Marshal(members)
	if err == nil {
		err = os.WriteFile(s.accountsFile, text, 0o600)
	}
	if err != nil {
		s.out.line(shoppersName, "%v", err)
	}
}

// credential returns the credential with which a person buys: the account's, after a sign-up if there is none yet.
// While the customers app is down, people buy as guests, at first without a credential.
func (s *shoppers) credential(ctx context.Context, p *person) credential {
	s.mu.Lock()
	member, guest := p.member, p.guest
	s.mu.Unlock()
	switch {
	case member.Token != "":
		return member
	case s.accounts == "":
		return guest
	}
	if s.account(ctx, http.MethodPost, "", p.key, "", p.account, &member) != http.StatusCreated || member.Token == "" {
		return guest
	}
	s.note(p, member)
	return member
}

// live does what follows a purchase: at times a person changes the address, or deletes the account.
func (s *shoppers) live(ctx context.Context, p *person, by credential) {
	moves, leaves := rand.N(moveOneIn) == 0, rand.N(leaveOneIn) == 0
	if by.ID == uuid.Nil || !moves && !leaves || !wait(ctx, time.Duration(rand.ExpFloat64()*float64(meanSettled))) {
		return
	}
	var status int
	if leaves {
		status = s.account(ctx, http.MethodDelete, "/"+by.ID.String(), "", by.Token, nil, nil)
	} else {
		moved := p.account
		moved.Address = s.people[rand.N(len(s.people))].account.Address
		status = s.account(ctx, http.MethodPut, "/"+by.ID.String(), "", by.Token, moved, nil)
	}
	if status == http.StatusNoContent || status == http.StatusNotFound {
		s.mu.Lock()
		same := p.member == by
		s.mu.Unlock()
		if same {
			s.note(p, credential{})
		}
	}
}

// account sends one request to the customers app. It returns status 0 if there is no answer.
func (s *shoppers) account(ctx context.Context, method, path, key, token string, what, into any) (status int) {
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
	status, answer, err := s.once(asking, method, s.accounts+"/customers"+path, key, token, body)
	if ctx.Err() != nil {
		return 0
	}
	away := err != nil || status >= 500 || status == http.StatusTooManyRequests
	s.tell(&s.customersAway, began, away, status, err)
	switch {
	case away:
		return 0
	case status >= 300 && status != http.StatusNotFound:
		s.tellRefusal(method+" /customers"+path, status, answer)
	case into != nil && json.Unmarshal(answer, into) != nil:
		return 0
	}
	return status
}
