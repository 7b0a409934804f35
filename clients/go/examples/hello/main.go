package main

import (
	"context"
	"fmt"
	"github.com/perdure/perdure-go"
	"log"
)

func main() {
	client, err := perdure.Dial("127.0.0.1:7373")
	if err != nil {
		log.Fatal(err)
	}
	var greeting string
	if err := client.Call(context.Background(), "greet", map[string]any{"name": "Ana"}, &greeting); err != nil {
		log.Fatal(err)
	}
	fmt.Println(greeting)
}
