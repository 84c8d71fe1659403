// The peer in Go: peer echo|resp|udp. A goroutine a connection; replies leave when no more input is buffered.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

var (
	lock  sync.RWMutex
	store = map[string]string{}
)

func announce(port int) { fmt.Printf("{\"port\":%d,\"pid\":%d}\n", port, os.Getpid()) }

func echo(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, 65536)
	for {
		n, err := connection.Read(buffer)
		if n > 0 {
			if _, err := connection.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func bulk(text string, found bool) string {
	if !found {
		return "$-1\r\n"
	}
	return "$" + strconv.Itoa(len(text)) + "\r\n" + text + "\r\n"
}

func run(words []string) string {
	switch strings.ToUpper(words[0]) {
	case "PING":
		if len(words) == 1 {
			return "+PONG\r\n"
		}
		return bulk(words[1], true)
	case "SET":
		if len(words) >= 3 {
			lock.Lock()
			store[words[1]] = words[2]
			lock.Unlock()
			return "+OK\r\n"
		}
	case "GET":
		if len(words) >= 2 {
			lock.RLock()
			value, found := store[words[1]]
			lock.RUnlock()
			return bulk(value, found)
		}
	}
	return "-ERR unknown command or wrong number of arguments\r\n"
}

// A line without its end; it is the reader's memory, and good until the next read.
func readLine(reader *bufio.Reader) ([]byte, error) {
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

func readCommand(reader *bufio.Reader) ([]string, error) {
	line, err := readLine(reader)
	if err != nil {
		return nil, err
	}
	if len(line) == 0 || line[0] != '*' {
		return strings.Fields(string(line)), nil
	}
	count, err := strconv.Atoi(string(line[1:]))
	if err != nil || count < 0 || count > 1024 {
		return nil, io.ErrUnexpectedEOF
	}
	words := make([]string, count)
	for i := range words {
		header, err := readLine(reader)
		if err != nil {
			return nil, err
		}
		if len(header) == 0 || header[0] != '$' {
			return nil, io.ErrUnexpectedEOF
		}
		length, err := strconv.Atoi(string(header[1:]))
		if err != nil {
			return nil, err
		}
		word, err := readLine(reader)
		if err != nil {
			return nil, err
		}
		if len(word) != length {
			return nil, io.ErrUnexpectedEOF
		}
		words[i] = string(word)
	}
	return words, nil
}

func resp(connection net.Conn) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, 65536)
	writer := bufio.NewWriterSize(connection, 65536)
	for {
		words, err := readCommand(reader)
		if err != nil {
			return
		}
		if len(words) > 0 {
			writer.WriteString(run(words))
		}
		if reader.Buffered() == 0 {
			if writer.Flush() != nil {
				return
			}
		}
	}
}

func main() {
	if os.Args[1] == "udp" {
		socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			panic(err)
		}
		announce(socket.LocalAddr().(*net.UDPAddr).Port)
		buffer := make([]byte, 65536)
		for {
			n, address, err := socket.ReadFromUDPAddrPort(buffer)
			if err != nil {
				panic(err)
			}
			socket.WriteToUDPAddrPort(buffer[:n], address)
		}
	}
	serve := map[string]func(net.Conn){"echo": echo, "resp": resp}[os.Args[1]]
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	announce(listener.Addr().(*net.TCPAddr).Port)
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go serve(connection)
	}
}
