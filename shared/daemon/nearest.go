package daemon

import (
	"cmp"
	"strings"
)

// Nearest returns the candidate that word most likely misspells or abbreviates, or "" if it resembles none: up to two
// letters of it may be wrong, missing, too many or swapped, of a word shorter than six letters one; or it is the
// beginning, of three letters or more, of one candidate alone. Case does not matter.
func Nearest(word string, candidates []string) string {
	return cmp.Or(within(min(len(word)/3, 2), word, candidates), begun(word, candidates))
}

// begun returns the only candidate that begins with the word, or "".
func begun(word string, candidates []string) (found string) {
	for _, c := range candidates {
		if len(word) < 3 || len(word) > len(c) || !strings.EqualFold(c[:len(word)], word) {
			continue
		}
		if found != "" {
			return ""
		}
		found = c
	}
	return found
}

// within returns the candidate of the least distance, at most that many letters, or "".
func within(most int, word string, candidates []string) (nearest string) {
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d <= most {
			nearest, most = c, d-1
		}
	}
	return nearest
}

// DidYouMean returns the end of a message about an unknown word: `; did you mean "status"?`, or "" if nothing is near.
func DidYouMean(word string, candidates []string) string {
	if nearest := Nearest(word, candidates); nearest != "" {
		return `; did you mean "` + nearest + `"?`
	}
	return ""
}

// distance counts the letters to change, insert, delete or swap with their neighbour (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			if i == 0 || j == 0 {
				rows[i][j] = i + j
				continue
			}
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
