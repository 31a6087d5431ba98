export default function Page() {
  return <p>environments</p>;
}
