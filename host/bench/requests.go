// What requests.sh asks for, by Go: the port is printed. GOMAXPROCS says on how many Ps.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

type answer struct {
	Message string `json:"message"`
	ID      int    `json:"id"`
	List    []int  `json:"list"`
}

func main() {
	large := []byte(strings.Repeat("0123456789abcdef", 4096))
	text := func(w http.ResponseWriter, s string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, s)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { text(w, "Hello, World!") })
	for i := 1; i <= 100; i++ {
		// Patterns with names came with Go 1.22.
		prefix := fmt.Sprintf("/r%d/", i)
		mux.HandleFunc(prefix, func(w http.ResponseWriter, r *http.Request) {
			parts := strings.Split(r.URL.Path[len(prefix):], "/")
			if len(parts) != 3 || parts[1] != "posts" {
				http.NotFound(w, r)
				return
			}
			text(w, parts[0]+"/"+parts[2])
		})
	}
	mux.HandleFunc("/query", func(w http.ResponseWriter, r *http.Request) {
		args := r.URL.Query()
		text(w, args.Get("name")+args.Get("page")+r.Header.Get("X-Id"))
	})
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(answer{"Hello, World!", 42, []int{1, 2, 3}})
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) { w.Write(large) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(ln, mux))
}
