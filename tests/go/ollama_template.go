// Runs Go's text/template over conversations as Ollama's chat endpoint does: neighbours of the same role joined by an empty
// line, all system texts in .System, the turns as pointers to structs. Reads JSON from stdin, writes a JSON list of texts.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type request struct {
	Template      string      `json:"template"`
	Conversations [][]message `json:"conversations"`
}

func collate(turns []message) (string, []*message) {
	var system []string
	var joined []*message
	for _, turn := range turns {
		if turn.Role == "system" {
			system = append(system, turn.Content)
		}
		if len(joined) > 0 && joined[len(joined)-1].Role == turn.Role {
			if turn.Content != "" {
				joined[len(joined)-1].Content += "\n\n" + turn.Content
			}
			continue
		}
		kept := turn
		joined = append(joined, &kept)
	}
	return strings.Join(system, "\n\n"), joined
}

func main() {
	var asked []request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	var texts []string
	for _, one := range asked {
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
		for _, turns := range one.Conversations {
			var text strings.Builder
			system, messages := collate(turns)
			values := map[string]any{"System": system, "Messages": messages, "Response": ""}
			if err := parsed.Execute(&text, values); err != nil {
				panic(err)
			}
			texts = append(texts, text.String())
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(texts); err != nil {
		panic(err)
	}
}
